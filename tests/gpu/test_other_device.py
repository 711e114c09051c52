"""The suites of layers, gradients and optimizers once more, on the device "reference": the code that runs GPUs, with NumPy as its array module."""

from __future__ import annotations

import sys

import pytest

from tests.sources import ROOT, run

SUITES = ("tests/nn", "tests/autograd", "tests/optim")
# What speaks of main memory: its kernels (their bits, precision beyond NumPy's, calls that serve a whole group), memory shared with NumPy arrays,
# what tl.memory counts, graphs of a million nodes, devices that the test chooses itself.
OF_MAIN_MEMORY = """
tests/autograd/test_backward.py::test_errors_name_what_and_where
tests/autograd/test_backward.py::test_gradients_cross_devices
tests/autograd/test_concurrency.py::test_a_forked_child_runs_backward_on_several_threads
tests/autograd/test_function.py::test_once_differentiable
tests/autograd/test_grad_place.py
tests/autograd/test_hooks.py::test_a_hooks_result_is_checked
tests/autograd/test_inplace.py::test_nothing_is_changed_before_an_error
tests/autograd/test_lifetime.py
tests/autograd/test_sparse.py::test_sums_do_not_depend_on_threads_or_instruction_sets
tests/nn/test_activations.py::test_values
tests/nn/test_ctc.py
tests/nn/test_losses.py::test_derivatives
tests/nn/test_losses.py::test_reductions
tests/nn/test_norms.py::test_gradients_of_many_elements
tests/nn/test_norms.py::test_statistics_far_from_zero
tests/nn/test_ragged.py::test_elementwise_methods_and_their_twins_in_place
tests/nn/test_ragged.py::test_index_tensors_lie_where_the_data_lie
tests/nn/test_ragged.py::test_what_mixes_rows_is_refused
tests/nn/test_ragged_attention.py::test_what_is_refused
tests/nn/test_recurrent.py::test_a_sequence_has_the_bits_that_it_has_alone
tests/nn/test_recurrent.py::test_cells
tests/nn/test_recurrent.py::test_forms_of_input_agree
tests/nn/test_recurrent.py::test_layers_run_on_another_device
tests/nn/test_recurrent.py::test_what_is_refused
tests/nn/test_training.py
tests/nn/test_trees.py::test_the_papers_equations
tests/nn/test_vocabulary.py::test_negative_sampling_layer
tests/optim/test_optimizers.py::test_the_native_call_serves_all_but_the_first_steps
tests/optim/test_optimizers.py::test_the_same_bits_on_any_number_of_threads
tests/optim/test_sparse.py::test_threads_do_not_show
"""


@pytest.mark.slow
def test_suites_pass_on_an_array_module() -> None:
    left_out = [f"--deselect={name}" for name in OF_MAIN_MEMORY.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *SUITES, *left_out]
    half = {"TENSORLIB_TEST_PART": "0/2"}  # all of it takes seven minutes
    said = run(*command, cwd=ROOT, env={"TENSORLIB_TEST_DEVICE": "reference", **half}, timeout=1500)
    assert " passed" in said and "failed" not in said
