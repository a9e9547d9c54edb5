//! Says Events. A repetition at a Deployment is counted in its series; of Adapters nothing is kept: the recorder remembers
//! each object for minutes and goes through all of them for each Event, which ten thousand Adapters would make their square.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};

/// An Event's note ends there; the API server takes 1024 bytes.
const LONGEST_NOTE: usize = 1000;

/// Who says Events.
pub struct Herald {
    client: Client,
    reporter: Reporter,
    of_deployments: Recorder,
}

impl Herald {
    /// Says them as `reporter`.
    #[must_use]
    pub fn new(client: Client, reporter: Reporter) -> Self {
        let of_deployments = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, of_deployments }
    }

    /// Says `event` at a Deployment.
    pub async fn at_deployment(&self, event: &Event, object: &ObjectReference) {
        heard(object, self.of_deployments.publish(event, object).await);
    }

    /// Says `event` at an Adapter.
    pub async fn at_adapter(&self, event: &Event, object: &ObjectReference) {
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        heard(object, recorder.publish(event, object).await);
    }
}

/// An Event is news, not state: one that was not taken is not said again.
fn heard(object: &ObjectReference, said: kube::Result<()>) {
    if let Err(error) = said {
        tracing::debug!(object = name_of(object), %error, "an Event was not taken");
    }
}

/// An object as logs name it.
#[must_use]
pub fn name_of(object: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{} {}/{}", part(&object.kind), part(&object.namespace), part(&object.name))
}

/// `text`, where it is too long without its end.
#[must_use]
pub fn shortened(text: &str) -> String {
    if text.len() <= LONGEST_NOTE {
        return text.to_owned();
    }
    let cut = (0..=LONGEST_NOTE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_fits_and_no_character_is_halved() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"é".repeat(800));
        assert!(long.len() <= 1024 && long.ends_with("é…"));
    }
}
