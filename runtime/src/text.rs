//! Text and tokens: what a model's files say about turning one into the other. Pure: no HTTP, no engine, no clock.
//!
//! Must not be asked to trust a file: every loader here returns an error, and never panics, on a malformed one. Templates
//! come from the base model's files alone, never from a request or an adapter.
//!
//! * [`tokenizer`]: text -> ids -> text, from `tokenizer.json` or from a GGUF file's metadata
//! * [`detokenizer`]: ids -> text, one at a time, never half a character
//! * [`stop`]: holds back what may become a stop string
//! * [`template`]: messages -> prompt, as transformers renders it
//! * [`defaults`]: what `generation_config.json` says
//! * [`special`]: what `tokenizer_config.json` says
//! * [`bundle`]: all of it, of one model

pub mod bundle;
pub mod defaults;
pub mod detokenizer;
pub mod special;
pub mod stop;
pub mod template;
pub mod tokenizer;
mod utf8;

pub use bundle::{Text, TextError};
pub use defaults::GenerationDefaults;
pub use detokenizer::Detokenizer;
pub use stop::StopStrings;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
