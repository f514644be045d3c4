"""Scores a Model Flow package for plain MLflow clients: `mlflow.pyfunc.load_model(uri).predict(frame)`.

This file lies, byte for byte the same, in every package. It needs onnxruntime and nothing of Model Flow. A missing
string scores as the empty string, a missing number as NaN, which the graph's own policy handles.
"""

from typing import Any

import numpy as np
import onnxruntime


class _Graph:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(self, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002 - MLflow's interface
        feed: dict[str, Any] = {}
        for column in self._session.get_inputs():
            values = model_input[column.name]
            if column.type == "tensor(string)":
                missing = values.isna().to_numpy()
                texts = values.astype(object).to_numpy()
                feed[column.name] = np.array(
                    ["" if gone else str(text) for gone, text in zip(missing, texts, strict=True)], object
                )
            else:
                feed[column.name] = values.astype("float64").to_numpy().astype(np.float32)
        return self._session.run(None, feed)[0]


def _load_pyfunc(path: str) -> _Graph:
    return _Graph(path)
