"""Serving: predictors that follow a model flow, as a library and as a sidecar.

>>> from serving import LocalPredictor  # doctest: +SKIP
>>> with LocalPredictor("models:/flight_delays/Production", tracking_uri="http://127.0.0.1:5000") as predictor:
...     predictor.predict({"carrier": "UA", ...})  # doctest: +SKIP
Prediction(score=0.21, version=7)
"""

from serving.predictor import LocalPredictor, Prediction

__all__ = ["LocalPredictor", "Prediction"]
