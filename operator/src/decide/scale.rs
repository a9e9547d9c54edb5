//! Scale: how many replicas a spec asks for, and of how many GPUs each. Pure. The number is other people's to write: a
//! person's, or an autoscaler's by /scale.

use lorikeet_crds::deployment::{DeploymentSpec, NodePool};

/// `spec.replicas`, within the bounds of `spec.autoscaling` where there are any.
#[must_use]
pub fn replicas(spec: &DeploymentSpec) -> i32 {
    let Some(bounds) = &spec.autoscaling else { return spec.replicas.unwrap_or(1) };
    // `clamp` would panic on bounds that are the wrong way round, which the API server refuses.
    spec.replicas.unwrap_or(bounds.min_replicas).min(bounds.max_replicas).max(bounds.min_replicas)
}

/// GPUs of one replica.
#[must_use]
pub fn gpus(pool: &NodePool) -> u32 {
    let default = i32::from(pool.accelerator.is_some());
    pool.gpus.unwrap_or(default).max(0).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use lorikeet_crds::deployment::Autoscaling;

    use super::*;

    #[test]
    fn what_is_written_is_obeyed_within_the_bounds() {
        let of = |replicas: Option<i32>, bounds: Option<(i32, i32)>| {
            let autoscaling =
                bounds.map(|(min_replicas, max_replicas)| Autoscaling { min_replicas, max_replicas });
            super::replicas(&DeploymentSpec { replicas, autoscaling, ..DeploymentSpec::default() })
        };
        assert_eq!([of(None, None), of(Some(0), None), of(Some(7), None)], [1, 0, 7]);
        let bounds = Some((2, 4));
        let asked = [None, Some(0), Some(3), Some(9)];
        assert_eq!(asked.map(|asked| of(asked, bounds)), [2, 2, 3, 4]);
    }
}
