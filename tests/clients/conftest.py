"""The addresses of the replicas that main.rs started, and clients of them."""

import lorax
import openai
import pytest


def pytest_addoption(parser):
    parser.addoption("--miniature", help="LoRA Land in miniature: base and 25 adapters")
    parser.addoption("--real", help="SmolLM2")
    parser.addoption("--locked", help="LoRA Land in miniature, with a key")
    parser.addoption("--key", help="its key")


def openai_client(url, key="none"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def miniature(request):
    return openai_client(request.config.getoption("--miniature"))


@pytest.fixture(scope="session")
def real(request):
    return openai_client(request.config.getoption("--real"))


@pytest.fixture(scope="session")
def locked(request):
    return lambda key: openai_client(request.config.getoption("--locked"), key)


@pytest.fixture(scope="session")
def key(request):
    return request.config.getoption("--key")


@pytest.fixture(scope="session")
def lorax_client(request):
    return lorax.Client(request.config.getoption("--miniature"), timeout=120)
