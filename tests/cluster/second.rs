//! A second operator beside the stage's own, behind a proxy of its own.

use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::stage::Stage;

/// The Lease of scenarios with two.
pub(crate) const LEASE_SECONDS: u32 = 4;

/// The second operator; it ends with its value.
pub(crate) struct Second {
    pub(crate) operator: Operator,
    pub(crate) proxy: Proxy,
}

impl Second {
    /// Started as the stage's options say, under another name, and ready.
    pub(crate) async fn start(stage: &mut Stage) -> Self {
        let proxy = Proxy::start(&stage.plane).await;
        // One that watches a single namespace sees no other anyway.
        proxy.confine(&stage.namespace);
        let mut options = stage.options().clone();
        options.identity = "operator-1".to_owned();
        options.kubeconfig =
            stage.plane.kubeconfig(&format!("{}-second", stage.system), &proxy.url(), &stage.token);
        options.log = options.log.with_extension("second.log");
        let mut operator = Operator::start(&options);
        operator.until_ready().await;
        Self { operator, proxy }
    }
}
