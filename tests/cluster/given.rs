//! The API server for what needs nothing beside one, no replica and no fault: that of a given cluster, else the suite's own.
//! On a given one our kinds are applied, and nothing else is kept: scenarios apply with a dry run, or delete what they made.

use std::path::PathBuf;

use kube::Client;
use lorikeet_tests::args;
use tokio::sync::OnceCell;

use crate::control_plane::{ControlPlane, apply_kinds, client};
use crate::kubectl::Kubectl;

/// An API server that knows our kinds.
#[derive(Clone)]
pub(crate) struct Given {
    kubeconfig: PathBuf,
}

impl Given {
    /// The one that `LORIKEET_TEST_KUBECONFIG` names, else the one that the scenarios share.
    pub(crate) async fn or_own() -> Self {
        static GIVEN: OnceCell<Given> = OnceCell::const_new();
        let of = async || match args::kubeconfig() {
            Some(kubeconfig) => Self::of(kubeconfig).await,
            None => Self { kubeconfig: ControlPlane::shared().await.admin() },
        };
        GIVEN.get_or_init(of).await.clone()
    }

    /// The one of `kubeconfig`, with our kinds as they are in this checkout.
    async fn of(kubeconfig: PathBuf) -> Self {
        let given = Self { kubeconfig };
        apply_kinds(&given.kubectl()).await;
        given
    }

    /// kubectl, with its credentials.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::of(self.kubeconfig.clone())
    }

    /// A client, with its credentials.
    pub(crate) async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }
}
