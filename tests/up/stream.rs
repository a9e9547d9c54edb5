//! A stream of a completion with several choices, read as it comes.

use std::time::Instant;

use futures::StreamExt as _;
use lorikeet_tests::client::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Choices of each.
const CHOICES: usize = 16;

/// A stream that is read as it comes.
pub(crate) struct Stream {
    accepted: oneshot::Receiver<()>,
    read: JoinHandle<(String, Instant)>,
}

impl Stream {
    fn start(client: &Client, model: &str, tokens: usize) -> Self {
        let body = json!({
            "model": model, "prompt": "The wind", "max_tokens": tokens, "n": CHOICES, "seed": 7, "ignore_eos": true, "stream": true,
        });
        let request = client.request(reqwest::Method::POST, "/v1/completions").json(&body);
        let (accept, accepted) = oneshot::channel();
        let read = tokio::spawn(async move {
            let response = request.send().await.expect("an answer");
            assert_eq!(response.status().as_u16(), 200);
            // Whoever waits for it may have failed.
            let _ = accept.send(());
            let (mut bytes, mut text) = (response.bytes_stream(), Vec::new());
            while let Some(piece) = bytes.next().await {
                text.extend_from_slice(&piece.expect("the stream does not break"));
            }
            (String::from_utf8(text).expect("text"), Instant::now())
        });
        Self { accepted, read }
    }

    /// One that is accepted.
    pub(crate) async fn under_way(client: &Client, model: &str, tokens: usize) -> Self {
        Self::several(client, model, tokens, 1).await.remove(0)
    }

    /// Several at a time, so that none is over too soon. All are accepted.
    pub(crate) async fn several(client: &Client, model: &str, tokens: usize, count: usize) -> Vec<Self> {
        let mut streams: Vec<Self> = (0..count).map(|_| Self::start(client, model, tokens)).collect();
        for stream in &mut streams {
            (&mut stream.accepted).await.expect("it is accepted");
        }
        streams
    }

    /// Everything that came, and when it ended.
    pub(crate) async fn read(self) -> (String, Instant) {
        self.read.await.expect("it is read to its end")
    }

    /// When it ended; it must be whole.
    pub(crate) async fn ended(self) -> Instant {
        self.answer().await.1
    }

    /// The text of each choice, and when it ended; it must be whole.
    pub(crate) async fn answer(self) -> ([String; CHOICES], Instant) {
        let (text, end) = self.read().await;
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let events = events.filter(|event| *event != "[DONE]").map(|event| {
            serde_json::from_str::<Value>(event).unwrap_or_else(|error| panic!("{error}: {event}"))
        });
        let (mut texts, mut ends) = ([const { String::new() }; CHOICES], 0);
        for event in events {
            let choice = &event["choices"][0];
            let index = choice["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            texts[index.expect("a choice")].push_str(choice["text"].as_str().unwrap_or_default());
            ends += usize::from(choice["finish_reason"] == "length");
        }
        assert_eq!(ends, CHOICES, "every choice came to its end: {text}");
        (texts, end)
    }
}
