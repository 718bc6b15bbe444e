"""The environment of the process that imports vLLM."""

import pytest

from functions.engines.vllm import openmp
from weights import processors


@pytest.mark.parametrize(("granted", "threads"), [(0.5, "1"), (1.9, "1"), (2.0, "1"), (3.5, "2")])
def test_openmp_gets_one_thread_for_each_granted_processor_but_one(monkeypatch, granted, threads):
    monkeypatch.setattr(openmp, "is_cpu_build", lambda: True)
    monkeypatch.setattr(processors, "available", lambda: granted)
    assert openmp.environment({})["OMP_NUM_THREADS"] == threads


def test_the_users_number_of_openmp_threads_is_kept(monkeypatch):
    monkeypatch.setattr(openmp, "is_cpu_build", lambda: True)
    assert openmp.environment({"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
