//! Piece by piece is the same as all at once.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::text::special::SpecialTokens;
use crate::text::tokenizer::tests::{MODELS, cases, golden_json, golden_tokenizer, ids};

fn piecewise(tokenizer: &Tokenizer, skip: bool, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, skip);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn every_golden_output_comes_out_piece_by_piece() {
    for model in MODELS {
        let tokenizer = golden_tokenizer(model);
        for case in golden_json(model, "cases.json")["cases"].as_array().unwrap() {
            let text = piecewise(&tokenizer, true, &ids(&case["greedy_ids"]));
            assert_eq!(text, case["greedy_text"].as_str().unwrap(), "{model}: {}", case["name"]);
        }
        for case in cases(model)["encode"].as_array().unwrap() {
            assert_eq!(piecewise(&tokenizer, true, &ids(&case["ids"])), case["decoded"].as_str().unwrap());
        }
    }
}

#[test]
fn half_an_emoji_is_not_sent() {
    for model in ["llama_gqa", "gemma"] {
        let tokenizer = golden_tokenizer(model);
        let mut detokenizer = Detokenizer::new(&tokenizer, true);
        let ids = tokenizer.encode("🙂", false).unwrap();
        let (last, first) = ids.split_last().unwrap();
        assert!(first.iter().all(|&id| detokenizer.push(id).is_empty()));
        assert_eq!(detokenizer.push(*last) + &detokenizer.finish(), "🙂", "{model}");
    }
}

#[test]
fn the_first_words_space_belongs_to_a_continuation_but_not_to_a_text_alone() {
    let tokenizer = golden_tokenizer("llama2_mha");
    let the = tokenizer.encode("the", false).unwrap();
    let read = |mut detokenizer: Detokenizer| the.iter().map(|&id| detokenizer.push(id)).collect::<String>();
    assert_eq!(read(Detokenizer::new(&tokenizer, true)), "the");
    assert_eq!(read(Detokenizer::after(&tokenizer, true, &the)), " the");
    // A special token that is skipped is no beginning.
    let bos = tokenizer.id_of("<s>").unwrap();
    assert_eq!(piecewise(&tokenizer, true, &[&[bos], the.as_slice()].concat()), "the");
}

#[test]
fn a_long_run_of_byte_tokens_is_sent_before_it_ends() {
    let tokenizer = golden_tokenizer("llama2_mha");
    let text = "ж".repeat(100);
    let ids = tokenizer.encode(&text, false).unwrap();
    let mut detokenizer = Detokenizer::new(&tokenizer, true);
    let mut sent = String::new();
    let mut given = 0;
    for &id in &ids {
        detokenizer.push_to(id, &mut sent);
        given += tokenizer.piece_bytes(id).len();
        assert!(given <= sent.len() + HELD_RUN + 1);
    }
    detokenizer.finish_to(&mut sent);
    assert_eq!(sent, text);
}

/// A decoder that is not taken apart: WordPiece's, with its rules about spaces.
fn wordpiece() -> Tokenizer {
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[CLS]": 0, "[UNK]": 1, "light": 2, "##house": 3, "the": 4, ",": 5, "##s": 6, "é": 7}},
    });
    Tokenizer::from_json(file.to_string().as_bytes(), &SpecialTokens::default()).unwrap()
}

#[test]
fn a_decoder_of_another_kind_is_read_through_a_window() {
    let tokenizer = wordpiece();
    assert_eq!(*tokenizer.decoding(), Decoding::Window);
    let ids = [0, 4, 2, 3, 6, 5, 4, 7, 99];
    assert_eq!(piecewise(&tokenizer, true, &ids), tokenizer.decode_slowly(&ids, true));
    assert_eq!(piecewise(&tokenizer, true, &ids), "the lighthouses, the é");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_of_tokens_gives_the_text_of_the_whole(
        picks in prop::collection::vec((0..3u8, any::<prop::sample::Index>()), 0..48), skip in any::<bool>(), model in 0..MODELS.len(),
    ) {
        let tokenizer = golden_tokenizer(MODELS[model]);
        let vocabulary = tokenizer.vocabulary();
        // Half of them from the first quarter: byte tokens are there, so that runs of them happen.
        let ids: Vec<u32> = picks.iter()
            .map(|(near, index)| index.index(if *near > 0 { vocabulary.min(260) } else { vocabulary + 8 }) as u32)
            .collect();
        prop_assert_eq!(piecewise(&tokenizer, skip, &ids), tokenizer.decode_slowly(&ids, skip));
    }

    #[test]
    fn any_text_survives_a_byte_level_round_trip(text in "\\PC{0,40}", model in 0..4usize) {
        let tokenizer = golden_tokenizer(["llama_gqa", "llama3_rope", "mistral_sw", "phi"][model]);
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(piecewise(&tokenizer, false, &ids), text);
    }
}
