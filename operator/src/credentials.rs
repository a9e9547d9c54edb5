//! What opens the admin face of a fleet's replicas: an authority of its own, one certificate for all of them, a token.
//! Shared by both carriers. Must not keep or place them.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use sha2::{Digest as _, Sha256};

/// Clocks differ: certificates are valid from a little before they are made.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// Everything in PEM but the token, which is hex.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The authority's certificate. Its key is not kept: a new certificate has a new authority.
    pub authority: String,
    /// The replicas' certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The bearer token.
    pub token: String,
    /// Until when the certificate is valid.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials(until {})", self.expires)
    }
}

/// New credentials for replicas that answer as `host`, valid for `days` from `now`.
///
/// # Errors
/// `host` is no name, or the system has no random numbers.
pub fn make(host: &str, days: u32, now: Timestamp) -> Result<Credentials, rcgen::Error> {
    let expires =
        now.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX);
    let mut authority = CertificateParams::new(Vec::new())?;
    valid(&mut authority, now, expires);
    authority.distinguished_name.push(DnType::CommonName, format!("{host} authority"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut replica = CertificateParams::new(vec![host.to_owned()])?;
    valid(&mut replica, now, expires);
    // A common name ends at 64 characters, which the host's need not; verifiers read the alternative name.
    replica.distinguished_name.push(DnType::CommonName, "lorikeet replica");
    replica.use_authority_key_identifier_extension = true;
    replica.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    replica.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = replica.signed_by(&key, &issuer)?;
    Ok(Credentials {
        authority: authority_certificate.pem(),
        certificate: certificate.pem(),
        // 256 bits of the system's randomness, by way of the one library here that has them.
        token: hex(&Sha256::digest(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialized_der())),
        key: key.serialize_pem(),
        expires,
    })
}

/// A digest of `parts` in their order: another for others.
#[must_use]
pub fn digest<const N: usize>(parts: [&str; N]) -> String {
    let whole = parts.iter().fold(Sha256::new(), |whole, part| whole.chain_update(part).chain_update([0]));
    hex(&whole.finalize())
}

fn valid(params: &mut CertificateParams, now: Timestamp, expires: Timestamp) {
    let day = |at: Timestamp| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(now.saturating_sub(CLOCK_SKEW).unwrap_or(now));
    // The day after: whole days are all that the library takes.
    params.not_after = day(expires.saturating_add(CLOCK_SKEW).unwrap_or(expires));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_making_is_another_and_tells_nothing() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let [one, other] = [(); 2].map(|()| make("x-replicas.ns.svc", 365, now).unwrap());
        assert_ne!(one.authority, other.authority);
        assert_ne!(one.token, other.token);
        assert_ne!(digest([&one.authority, &one.token]), digest([&one.token, &one.authority]));
        assert_eq!(one.token.len(), 64);
        assert_eq!(one.expires.as_second(), 1_800_000_000 + 365 * 86_400);
        for part in [&one.authority, &one.certificate, &one.key] {
            assert!(part.starts_with("-----BEGIN "), "{part}");
        }
        assert!(!format!("{one:?}").contains("BEGIN") && !format!("{one:?}").contains(&one.token));
    }

    #[test]
    fn a_long_host_is_no_hindrance() {
        let host = format!("{}-replicas.{}.svc", "d".repeat(50), "n".repeat(63));
        assert!(make(&host, 3, Timestamp::UNIX_EPOCH).is_ok());
    }
}
