//! The `model` of a body: the base, or an adapter by its registered name.

use super::App;
use super::error::{ApiError, Problem};

/// Which model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The base model.
    Base,
    /// An adapter of it.
    Adapter(String),
}

impl Target {
    /// The name that the answer carries.
    #[must_use]
    pub fn name<'a>(&'a self, app: &'a App) -> &'a str {
        match self {
            Self::Base => &app.card.name,
            Self::Adapter(name) => name,
        }
    }

    /// The adapter's name.
    #[must_use]
    pub fn adapter(&self) -> Option<&str> {
        match self {
            Self::Base => None,
            Self::Adapter(name) => Some(name),
        }
    }
}

impl App {
    /// What a name stands for; no name, or an empty one, is the base model.
    ///
    /// # Errors
    /// [`Problem::UnknownModel`].
    pub fn target(&self, model: Option<&str>) -> Result<Target, Problem> {
        match model {
            None | Some("") => Ok(Target::Base),
            Some(name) if name == self.card.name => Ok(Target::Base),
            Some(name) if self.adapters.knows(name) => Ok(Target::Adapter(name.to_owned())),
            Some(name) => Err(Problem::UnknownModel(name.to_owned())),
        }
    }
}

/// For handlers that only want to know whether a name is served.
pub(super) fn check(app: &App, model: Option<&str>) -> Result<(), ApiError> {
    app.target(model).map(|_| ()).map_err(ApiError::from)
}
