"""What LoRAX's own client can ask for."""

import lorax.errors
import pytest

GOOD = "Is the movie review positive or negative?\n### Review: The story is fresh and the plot is superb.\n### Label:"


def test_generate_takes_the_adapter_and_gives_details(lorax_client):
    answer = lorax_client.generate(GOOD, adapter_id="glue_sst2", max_new_tokens=8, details=True)
    assert answer.generated_text.strip() == "positive"
    details = answer.details
    assert details.finish_reason == lorax.types.FinishReason.EndOfSequenceToken
    assert details.generated_tokens == len(details.tokens)
    assert details.prompt_tokens > 20
    assert all(token.logprob <= 0 for token in details.tokens)


def test_without_an_adapter_the_base_answers(lorax_client):
    base = lorax_client.generate(GOOD, max_new_tokens=8)
    adapter = lorax_client.generate(GOOD, adapter_id="glue_sst2", max_new_tokens=8)
    assert base.generated_text != adapter.generated_text


def test_a_stream_gives_the_same_text_and_ends_with_details(lorax_client):
    whole = lorax_client.generate(GOOD, adapter_id="glue_sst2", max_new_tokens=8).generated_text
    parts = list(lorax_client.generate_stream(GOOD, adapter_id="glue_sst2", max_new_tokens=8))
    assert "".join(part.token.text for part in parts if not part.token.special) == whole
    assert parts[-1].generated_text == whole
    assert parts[-1].details.generated_tokens == len(parts)
    assert all(part.generated_text is None for part in parts[:-1])


def test_a_stop_sequence_ends_it(lorax_client):
    answer = lorax_client.generate(GOOD, adapter_id="glue_sst2", max_new_tokens=8, stop_sequences=["pos"], details=True)
    assert answer.details.finish_reason == lorax.types.FinishReason.StopSequence
    assert answer.generated_text.strip() == "pos"


def test_a_seed_repeats_a_sample(lorax_client):
    ask = dict(adapter_id="viggo", max_new_tokens=16, do_sample=True, temperature=1.5, ignore_eos_token=True)
    first, second = (lorax_client.generate("Once", seed=3, **ask).generated_text for _ in range(2))
    assert first == second != lorax_client.generate("Once", seed=4, **ask).generated_text


def test_the_prompts_tokens_are_given_where_asked_for(lorax_client):
    answer = lorax_client.generate(GOOD, max_new_tokens=2, details=True, decoder_input_details=True)
    assert len(answer.details.prefill) == answer.details.prompt_tokens
    assert answer.details.prefill[0].logprob is None


def test_an_unknown_adapter_is_an_error_of_the_client(lorax_client):
    with pytest.raises(Exception) as error:
        lorax_client.generate("x", adapter_id="nobody", max_new_tokens=1)
    assert type(error.value).__module__ == "lorax.errors", repr(error.value)
    assert "nobody" in str(error.value)


def test_too_long_a_prompt_is_a_validation_error(lorax_client):
    with pytest.raises(lorax.errors.ValidationError):
        lorax_client.generate("word " * 2000, max_new_tokens=1)
