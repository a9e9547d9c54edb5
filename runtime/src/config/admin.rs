//! The admin face as checked: nobody opens it without a token, and no token goes in the clear beyond this machine.

use std::net::SocketAddr;

use super::{ConfigError, invalid};
use crate::args::AdminArgs;
use crate::http::auth::Keys;
use crate::http::tls::Certificate;

/// The admin face.
pub struct AdminFace {
    /// Where.
    pub listen: SocketAddr,
    /// Who may ask.
    pub keys: Keys,
    /// With TLS, or in the clear on loopback.
    pub tls: Option<Certificate>,
}

/// The face of a process that need not have one.
pub(super) fn optional(
    listen: Option<SocketAddr>,
    args: &AdminArgs,
) -> Result<Option<AdminFace>, ConfigError> {
    match listen {
        Some(listen) => face(listen, args).map(Some),
        None if args.admin_insecure || args.admin_token_file.is_some() || args.admin_tls_cert.is_some() => {
            Err(invalid("--admin-listen", "an address where there are other --admin flags", "none"))
        }
        None => Ok(None),
    }
}

/// The face at `listen`.
pub(super) fn face(listen: SocketAddr, args: &AdminArgs) -> Result<AdminFace, ConfigError> {
    let loopback = listen.ip().is_loopback();
    let open = |why| Err(ConfigError::OpenAdmin { listen, why });
    let tls = match (&args.admin_tls_cert, &args.admin_tls_key) {
        (Some(cert), Some(key)) => Some(Certificate::read(cert, key)?),
        _ => None,
    };
    let Some(token) = &args.admin_token_file else {
        return match (args.admin_insecure, loopback) {
            (true, true) => Ok(AdminFace { listen, keys: Keys::open(), tls }),
            (true, false) => open("--admin-insecure is for loopback addresses alone"),
            (false, _) => open("needs --admin-token-file, or --admin-insecure on a loopback address"),
        };
    };
    if tls.is_none() && !loopback {
        return open(
            "needs --admin-tls-cert and --admin-tls-key beyond loopback: the token would go in the clear",
        );
    }
    let flag = "admin-token-file";
    let keys = Keys::from_file(token).map_err(|source| ConfigError::Keys { flag, source })?;
    Ok(AdminFace { listen, keys, tls })
}
