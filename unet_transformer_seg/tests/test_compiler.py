"""The compiler is told where to take the convolutions from only where that has been measured."""

import jax
import numpy as np
import pytest

from seg import compiler
from seg.compiler import CONVOLUTIONS_BY_EIGEN, compiler_options
from seg.ops.conv import conv2d


@pytest.fixture
def cpu_info(tmp_path, monkeypatch):
    """Return the file that stands for the system's description of the processor, and forget what was found before."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(compiler, "CPU_INFO", file)
    monkeypatch.setattr(compiler, "_knows", lambda options: True)
    compiler_options.cache_clear()
    yield file
    compiler_options.cache_clear()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma\n\nflags\t\t: fpu\n", CONVOLUTIONS_BY_EIGEN),
        ("flags\t\t: fpu avx2 avx512f avx512bw\n", CONVOLUTIONS_BY_EIGEN),
        ("flags\t\t: fpu sse4_2 avx\nbugs\t\t: avx2\n", {}),
        ("Features\t: fp asimd\n", {}),
        ("", {}),
    ],
    ids=["AVX2", "AVX-512", "AVX", "ARM", "empty"],
)
def test_the_options_follow_the_width_of_the_vectors(cpu_info, text, options):
    cpu_info.write_text(text)
    assert compiler_options() == options


def test_where_the_system_does_not_tell_nothing_is_set(cpu_info):
    assert compiler_options() == {}


def test_a_compiler_that_does_not_know_them_is_not_given_them(cpu_info, monkeypatch):
    cpu_info.write_text("flags\t\t: avx2\n")
    monkeypatch.setattr(compiler, "_knows", lambda options: False)
    assert compiler_options() == {}


def test_other_devices_than_a_cpu_are_given_nothing(cpu_info, monkeypatch):
    cpu_info.write_text("flags\t\t: avx2\n")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}


def test_programs_of_training_are_compiled_with_the_options(monkeypatch):
    monkeypatch.setattr(compiler, "compiler_options", lambda: {"xla_cpu_has_no_such_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_has_no_such_option"):
        compiler.compile_program(jax.jit(lambda x: x + 1), 1.0)


def test_an_option_that_no_compiler_has_is_recognised():
    assert not compiler._knows({"xla_cpu_has_no_such_option": "1"})
    assert compiler._knows({"xla_backend_optimization_level": "0"})


@pytest.mark.skipif(not compiler._knows(CONVOLUTIONS_BY_EIGEN), reason="this compiler has no such option")
def test_convolutions_keep_their_values():
    rng = np.random.default_rng(0)
    x_bhwc = rng.normal(size=(2, 12, 16, 24)).astype(np.float32)
    kernel_ijco = rng.normal(size=(3, 3, 24, 8)).astype(np.float32)
    plain, by_eigen = (
        jax.jit(lambda x, kernel: conv2d(x, kernel), compiler_options=options)(x_bhwc, kernel_ijco)
        for options in ({}, CONVOLUTIONS_BY_EIGEN)
    )
    np.testing.assert_allclose(by_eigen, plain, atol=1e-4)
    assert np.ptp(plain) > 10
