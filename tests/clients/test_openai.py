"""What the `openai` package can ask for, of a base model and its adapters."""

import openai
import pytest

REVIEW = "Is the movie review positive or negative?\n### Review: {}\n### Label:"
GOOD = REVIEW.format("The story is fresh and the plot is superb.")
BAD = REVIEW.format("Sadly, this is a awful film with a terrible music.")
GREEDY = {"model": "glue_sst2", "temperature": 0, "max_tokens": 8}


def test_models_are_the_base_and_its_adapters(miniature):
    models = {model.id: model for model in miniature.models.list()}
    assert len(models) == 26
    assert models["glue_sst2"].object == "model"
    assert models["glue_sst2"].parent == "base"
    assert miniature.models.retrieve("viggo").id == "viggo"


def test_a_completion_is_the_adapters(miniature):
    answers = [miniature.completions.create(prompt=prompt, **GREEDY) for prompt in (GOOD, BAD)]
    assert [answer.choices[0].text.strip() for answer in answers] == ["positive", "negative"]
    assert answers[0].choices[0].finish_reason == "stop"
    assert answers[0].model == "glue_sst2"
    usage = answers[0].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 20


def test_a_stream_gives_the_same_text_and_the_usage(miniature):
    whole = miniature.completions.create(prompt=GOOD, **GREEDY)
    stream = miniature.completions.create(prompt=GOOD, stream=True, stream_options={"include_usage": True}, **GREEDY)
    chunks = list(stream)
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]


def test_several_prompts_come_back_in_their_order(miniature):
    answer = miniature.completions.create(prompt=[GOOD, BAD, GOOD], **GREEDY)
    assert [choice.text.strip() for choice in answer.choices] == ["positive", "negative", "positive"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_a_prompt_of_token_ids_is_taken(miniature):
    answer = miniature.completions.create(prompt=[1, 300, 301, 302], **GREEDY)
    assert answer.usage.prompt_tokens == 4


def test_log_probabilities_are_of_the_tokens_and_of_the_best(miniature):
    answer = miniature.completions.create(prompt=GOOD, logprobs=3, **GREEDY)
    logprobs = answer.choices[0].logprobs
    count = answer.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == count
    assert all(value <= 0 for value in logprobs.token_logprobs)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert max(top.values()) == pytest.approx(logprob), "greedy: the best is the chosen one"
        assert len(top) <= 4 and token in top


def test_n_choices_differ_and_a_seed_repeats_them(miniature):
    ask = dict(model="base", prompt="Once", max_tokens=12, temperature=1.5, n=4, extra_body={"ignore_eos": True})
    first = [choice.text for choice in miniature.completions.create(seed=7, **ask).choices]
    second = [choice.text for choice in miniature.completions.create(seed=7, **ask).choices]
    other = [choice.text for choice in miniature.completions.create(seed=8, **ask).choices]
    assert first == second and len(set(first)) > 1 and first != other


def test_a_stop_string_ends_the_text_before_it(miniature):
    whole = miniature.completions.create(model="viggo", prompt=VIGGO, max_tokens=48, temperature=0).choices[0]
    assert "[" in whole.text, whole.text
    stopped = miniature.completions.create(model="viggo", prompt=VIGGO, max_tokens=48, temperature=0, stop=["["]).choices[0]
    assert stopped.text == whole.text.split("[")[0]
    assert stopped.finish_reason == "stop"


VIGGO = (
    "Turn the sentence about a game into its meaning.\n"
    "### Sentence: Dark Hunter came out in 1995 on Switch.\n### Meaning:"
)


def test_echo_gives_the_prompt_back(miniature):
    answer = miniature.completions.create(prompt=GOOD, echo=True, **GREEDY)
    assert answer.choices[0].text.startswith(GOOD)


def test_a_bias_forbids_a_token(miniature):
    free = miniature.completions.create(prompt=GOOD, extra_body={"return_token_ids": True}, **GREEDY)
    first = free.choices[0].token_ids[0]
    biased = miniature.completions.create(
        prompt=GOOD, logit_bias={str(first): -100}, extra_body={"return_token_ids": True}, **GREEDY
    )
    assert biased.choices[0].token_ids[0] != first


def test_the_real_model_answers_a_question_sensibly(real):
    question = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    answer = real.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=32)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    stream = real.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=32, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content


def test_a_conversation_of_several_turns_is_one_prompt(real):
    first = [{"role": "user", "content": "How many days are in a week?"}]
    answer = real.chat.completions.create(model="smollm2", messages=first, temperature=0, max_tokens=32)
    assert "7" in answer.choices[0].message.content
    more = first + [answer.choices[0].message, {"role": "user", "content": "And what is the largest ocean on Earth?"}]
    second = real.chat.completions.create(model="smollm2", messages=more, temperature=0, max_tokens=32)
    assert "ocean" in second.choices[0].message.content.lower()
    assert second.usage.prompt_tokens > answer.usage.total_tokens


def test_chat_log_probabilities(real):
    answer = real.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Say yes."}]}],
        temperature=0, max_completion_tokens=4, logprobs=True, top_logprobs=2,
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 2 and entry.top_logprobs[0].token == entry.token for entry in content)


def test_an_unknown_model_is_not_found(miniature):
    with pytest.raises(openai.NotFoundError) as error:
        miniature.completions.create(model="nobody", prompt="x")
    assert error.value.code == "model_not_found" and error.value.param == "model"
    assert "nobody" in error.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("top_p", 0), ("n", 0), ("max_tokens", 0), ("presence_penalty", 3), ("logprobs", 99), ("stop", [1])],
)
def test_a_bad_parameter_is_named(miniature, field, value):
    with pytest.raises(openai.BadRequestError) as error:
        miniature.completions.create(**{"model": "base", "prompt": "x", field: value})
    assert error.value.param == field
    assert field in error.value.message
    assert error.value.type == "invalid_request_error"


def test_a_prompt_longer_than_the_context_is_refused(miniature):
    with pytest.raises(openai.BadRequestError) as error:
        miniature.completions.create(model="base", prompt=[5] * 600, max_tokens=4)
    assert error.value.code == "context_length_exceeded"
    assert "512" in error.value.message and "600" in error.value.message


def test_a_key_is_asked_for(locked, key):
    assert len(locked(key).models.list().data) == 26
    with pytest.raises(openai.AuthenticationError):
        locked("another").models.list()
    with pytest.raises(openai.AuthenticationError):
        locked(key + "x").completions.create(model="base", prompt="x")


def test_a_stream_that_is_left_does_no_harm(miniature):
    for _ in range(8):
        stream = miniature.completions.create(model="viggo", prompt=VIGGO, max_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    assert miniature.completions.create(prompt=GOOD, **GREEDY).choices[0].text.strip() == "positive"
