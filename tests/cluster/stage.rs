//! A stage for one scenario: two namespaces of a control plane, the operator's account, a proxy, replicas.

mod waits;

use std::fmt::Debug;
use std::process::Command;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use lorikeet_tests::say::say;
use serde::de::DeserializeOwned;
use serde_json::json;

pub(crate) use self::waits::{
    OF_ADAPTER, OF_DEPLOYMENT, assert_conditions, is_ready_adapter, is_ready_deployment, is_whole,
};
use crate::account::{self, Scope};
use crate::audit::{Audit, Event};
use crate::control_plane::ControlPlane;
use crate::fake::Script;
use crate::ground::Ground;
use crate::kubectl::Kubectl;
use crate::kubelet::{Binder, Kubelet};
use crate::nodes::Upheld;
use crate::operator::{Operator, Options};
use crate::proxy::Proxy;
use crate::until::{PATIENCE, until};

/// The name of the operator's account.
const ACCOUNT: &str = "lorikeet-operator";

/// The stage; everything on it ends with it.
pub(crate) struct Stage {
    // Ended in this order.
    operator: Option<Operator>,
    pub(crate) proxy: Proxy,
    pub(crate) kubelet: Kubelet,
    pub(crate) client: Client,
    pub(crate) kubectl: Kubectl,
    /// Where the scenario's objects are.
    pub(crate) namespace: String,
    /// The operator's own.
    pub(crate) system: String,
    /// Its account's token.
    pub(crate) token: String,
    options: Options,
    /// What the operator asked of the API server.
    pub(crate) audit: Audit,
    pub(crate) plane: Arc<ControlPlane>,
    /// The node of its pods, where somebody else minds that there is one.
    _node: Option<Upheld>,
    // Last: nobody is left who would put something there.
    _ground: Ground,
}

impl Stage {
    /// On the control plane that scenarios share; the operator watches one namespace, by a Role.
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(ControlPlane::shared().await, name, Scope::Namespaced).await
    }

    /// On the shared control plane; the operator watches all namespaces, so that its Adapters bear the finalizer, and is shown
    /// the scenario's alone.
    pub(crate) async fn wide(name: &str) -> Self {
        let stage = Self::on(ControlPlane::shared().await, name, Scope::Cluster).await;
        stage.proxy.confine(&stage.namespace);
        stage
    }

    /// On a control plane of its own; the operator watches all namespaces. Nothing where one is given: see [`ControlPlane::own`].
    pub(crate) async fn cluster_wide(name: &str) -> Option<Self> {
        let plane = ControlPlane::own("its operator watches all namespaces").await?;
        Some(Self::on(Arc::new(plane), name, Scope::Cluster).await)
    }

    /// As [`Self::cluster_wide`], with a scheduler, which sees the nodes that the scenario makes.
    pub(crate) async fn scheduled(name: &str) -> Option<Self> {
        let plane = Arc::new(ControlPlane::with_scheduler().await?);
        let mut stage = Self::on(plane, name, Scope::Cluster).await;
        stage.kubelet =
            Kubelet::binding(stage.client.clone(), &stage.namespace, Script::default(), Binder::Scheduler);
        Some(stage)
    }

    async fn on(plane: Arc<ControlPlane>, name: &str, scope: Scope) -> Self {
        let ground = Ground::new(&plane, name);
        let (namespace, system) = (ground.namespace.clone(), ground.system.clone());
        let kubectl = plane.kubectl();
        let account = account::documents(scope, &system, &namespace);
        kubectl.apply(&ground.documents(&account));
        let token = kubectl.run(&["create", "token", ACCOUNT, "--namespace", &system, "--duration=8h"]);
        let token = token.trim().to_owned();
        let proxy = Proxy::start(&plane).await;
        let client = plane.client().await;
        let user = format!("system:serviceaccount:{system}:{ACCOUNT}");
        account::until_granted(&client, &account, &user).await;
        let kubelet = Kubelet::start(client.clone(), &namespace, Script::default());
        let options = Options {
            identity: "operator-0".to_owned(),
            kubeconfig: plane.kubeconfig(&system, &proxy.url(), &token),
            namespace: system.clone(),
            watches: (scope == Scope::Namespaced).then(|| namespace.clone()),
            lease_seconds: 15,
            registry_seconds: 0,
            flags: Vec::new(),
            ahead: 0,
            log: plane.folder().join(format!("{namespace}-operator.log")),
        };
        let node = plane.run().map(|_| Upheld::new(client.clone(), kubectl.clone()));
        let audit = plane.audit(user, &token);
        Self {
            operator: None,
            proxy,
            kubelet,
            client,
            kubectl,
            namespace,
            system,
            token,
            options,
            audit,
            plane,
            _node: node,
            _ground: ground,
        }
    }

    /// As [`Self::new`], with the operator running.
    pub(crate) async fn with_operator(name: &str) -> Self {
        let mut stage = Self::new(name).await;
        stage.start_operator().await;
        stage
    }

    /// As [`Self::with_operator`], with the operator's own intervals in place of a test's haste.
    pub(crate) async fn unhurried(name: &str) -> Self {
        let mut stage = Self::new(name).await;
        stage.options.unhurried();
        stage.start_operator().await;
        stage
    }

    /// What operators are started with.
    pub(crate) fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Starts the operator, and waits until it is ready.
    pub(crate) async fn start_operator(&mut self) {
        self.launch_operator();
        self.operator().until_ready().await;
    }

    /// Starts the operator, as a cluster does: whether or not it will be ready.
    pub(crate) fn launch_operator(&mut self) {
        self.operator = Some(Operator::start(&self.options));
    }

    /// Kills the operator: no signal that it could hear.
    pub(crate) fn kill_operator(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            operator.process().kill();
        }
    }

    /// The operator that runs.
    #[track_caller]
    pub(crate) fn operator(&mut self) -> &mut Operator {
        self.operator.as_mut().expect("an operator was started")
    }

    /// What the operator wrote so far, as the audit log has it; renewals of its Lease left out.
    pub(crate) fn writes(&self) -> Vec<Event> {
        self.audit.writes()
    }

    /// Loosens the definitions, as an older or newer release of them would be: from now on anything may stand where a
    /// status has an Adapter's rank and a Deployment's ready replicas.
    pub(crate) fn loosen_definitions(&self) {
        for (definition, field) in [("adapters", "rank"), ("deployments", "readyReplicas")] {
            let path =
                format!("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/{field}");
            let patch = json!([
                {"op": "replace", "path": path, "value": {"x-kubernetes-preserve-unknown-fields": true}},
            ]);
            let name = format!("crd/{definition}.lorikeet.dev");
            self.kubectl.run(&["patch", &name, "--type=json", "--patch", &patch.to_string()]);
        }
    }

    /// Gives Adapter or Deployment `object` (`lora/NAME`, `ldep/NAME`) a status that cannot be read, once the API server
    /// takes it.
    pub(crate) async fn spoil(&self, object: &str, field: &str) {
        let patch = json!({"status": {field: "many"}}).to_string();
        let namespace = self.namespace.as_str();
        until(&format!("{object} is spoilt"), PATIENCE, async || {
            let arguments = [
                "patch",
                object,
                "--namespace",
                namespace,
                "--subresource=status",
                "--type=merge",
                "--patch",
            ];
            self.kubectl.try_run(&[arguments.as_slice(), &[patch.as_str()]].concat()).ok()
        })
        .await;
    }

    /// The objects of kind `K` in the scenario's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object of kind `K`, when it is there.
    pub(crate) async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        self.api::<K>().get_opt(name).await.expect("the API server answers")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for what in
            ["deployments.lorikeet.dev,adapters.lorikeet.dev,deployments.apps,pods", "events.events.k8s.io"]
        {
            let shown = self.kubectl.try_run(&["get", what, "--namespace", &self.namespace, "--output=wide"]);
            say(&format!("--- {what} of {} ---\n{}", self.namespace, shown.unwrap_or_else(|error| error)));
        }
        let grep = Command::new("tail")
            .args(["-n", "5"])
            .arg(self.plane.folder().join("kube-apiserver.log"))
            .output();
        say(&grep
            .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned()));
    }
}
