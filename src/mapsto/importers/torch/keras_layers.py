"""Recurrent layers of Keras on torch as those of torch: by itself Keras unrolls them in Python where there is no CUDA,
which fixes the length and makes a call of each step's parts. Keras hands its weights to torch's own layers on CUDA; the
same is done here, where a layer has the activations that torch's has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MODULE = "keras.src.backend.torch.rnn"
_NAMES = ("_fallback_lstm", "_fallback_gru", "prepare_lstm_params", "prepare_gru_params")


@contextmanager
def keras_layers_whole() -> Iterator[None]:
    """While it is entered, LSTM and GRU of Keras call torch's, where Keras is there, on torch, and made as this knows
    it; else they are unrolled.
    """
    rnn = sys.modules.get(_MODULE)
    if rnn is None or not all(hasattr(rnn, name) for name in _NAMES):
        yield
        return
    before = rnn._fallback_lstm, rnn._fallback_gru
    rnn._fallback_lstm, rnn._fallback_gru = _lstm(rnn, before[0]), _gru(rnn, before[1])  # type: ignore[attr-defined]
    try:
        yield
    finally:
        rnn._fallback_lstm, rnn._fallback_gru = before  # type: ignore[attr-defined]


def _lstm(rnn: Any, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def whole(
        inputs: Any, h: Any, c: Any, kernel: Any, recurrent_kernel: Any, bias: Any, activation: Any,
        recurrent_activation: Any, return_sequences: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        if not _is_usual(activation, recurrent_activation):
            return otherwise(
                inputs, h, c, kernel, recurrent_kernel, bias, activation, recurrent_activation, return_sequences,
                batch_first,
            )  # fmt: skip
        params = rnn.prepare_lstm_params(kernel, recurrent_kernel, bias, inputs.device)
        states = (h.unsqueeze(0), c.unsqueeze(0))
        outputs, last, cells = torch._VF.lstm(inputs, states, params, True, 1, 0.0, False, False, batch_first)
        last, cells = last.squeeze(0), cells.squeeze(0)
        return last, outputs if return_sequences else last.unsqueeze(1 if batch_first else 0), [last, cells]

    return whole


def _gru(rnn: Any, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def whole(
        inputs: Any, h: Any, kernel: Any, recurrent_kernel: Any, bias: Any, activation: Any, recurrent_activation: Any,
        return_sequences: bool,
    ) -> Any:  # fmt: skip
        if not _is_usual(activation, recurrent_activation):
            return otherwise(
                inputs, h, kernel, recurrent_kernel, bias, activation, recurrent_activation, return_sequences
            )
        params = rnn.prepare_gru_params(kernel, recurrent_kernel, bias, inputs.device)
        outputs, last = torch._VF.gru(inputs, h.unsqueeze(0), params, True, 1, 0.0, False, False, True)
        last = last.squeeze(0)
        return last, outputs if return_sequences else last.unsqueeze(1), [last]

    return whole


def _is_usual(activation: Any, recurrent_activation: Any) -> bool:
    """Whether a layer's activations are those of torch's layers."""
    from keras import activations, ops

    return activation in (activations.tanh, torch.tanh, ops.tanh) and recurrent_activation in (
        activations.sigmoid,
        torch.sigmoid,
        ops.sigmoid,
    )
