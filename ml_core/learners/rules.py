r"""The update rules of the online learners: what one coordinate remembers, and how a gradient changes it.

Each rule keeps a short row of float64 numbers per coordinate, its whole state, so that saving the rows saves the
optimiser. With gradient :math:`g`, learning rate scale :math:`\alpha` and :math:`S_t(x) = \operatorname{sgn}(x)
\max(|x| - t, 0)`:

``ftrl`` — (z, n). FTRL-proximal, Algorithm 1 of McMahan et al. (2013), "Ad Click Prediction: a View from the Trenches":

.. math::

    w &= -S_{\lambda_1}(z) \Big/ \left(\frac{\beta + \sqrt n}{\alpha} + \lambda_2\right) \\
    z &\leftarrow z + g - \frac{\sqrt{n + g^2} - \sqrt n}{\alpha}\, w, \qquad n \leftarrow n + g^2

``adagrad`` — (w, n). Duchi, Hazan and Singer (2011), with a proximal step for the L1 term:

.. math::

    n \leftarrow n + g^2, \qquad r = \frac{\alpha}{\beta + \sqrt n}, \qquad
    w \leftarrow S_{r \lambda_1}\!\left(w - r (g + \lambda_2 w)\right)

``adam`` — (w, m, v, t). Kingma and Ba (2015) with the authors' decays 0.9 and 0.999; *t* counts the updates of the
coordinate itself ("lazy" Adam), so that rare features are not decayed between their rows:

.. math::

    m \leftarrow .9 m + .1 g, \quad v \leftarrow .999 v + .001 g^2, \quad
    w \leftarrow w - \alpha\, \frac{m / (1 - .9^t)}{\sqrt{v / (1 - .999^t)} + 10^{-8}}

``sgd`` — (w). :math:`w \leftarrow S_{\alpha \lambda_1}(w - \alpha (g + \lambda_2 w))`.

`beta` belongs to ``ftrl`` and ``adagrad``; for ``adam`` the penalties enter as for ``sgd``. A coordinate that a row
does not touch never changes. The kernels work on a block: the memories of all coordinates of one row, one array per
number remembered, so that the compiler can use the processor's vector units for the roots and divisions.
"""

import numba
import numpy as np

RULES = {"ftrl": 0, "adagrad": 1, "adam": 2, "sgd": 3}
STATE_WIDTH = {"ftrl": 2, "adagrad": 2, "adam": 4, "sgd": 1}

# The rates every rule is called with: (alpha, beta, l1, l2).
Rates = tuple[float, float, float, float]

_FTRL, _ADAGRAD, _ADAM, _SGD = RULES.values()


@numba.njit(cache=True, nogil=True)
def _shrink(x, threshold):  # type: ignore[no-untyped-def]
    """Return the soft threshold of `x`, without a branch."""
    return max(x - threshold, 0.0) + min(x + threshold, 0.0)


@numba.njit(cache=True, nogil=True)
def weigh(rule, block, size, rates, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the weights that the first `size` memories of `block`, shape (STATE_WIDTH, any), stand for."""
    if rule != _FTRL:
        for j in range(size):
            out[j] = block[0, j]
        return
    alpha, beta, l1, l2 = rates
    per_root, fixed = 1.0 / alpha, beta / alpha + l2
    z, n = block[0], block[1]
    for j in range(size):
        # a coordinate without evidence weighs nothing, also where beta and l2 are zero
        damping = fixed + np.sqrt(n[j]) * per_root
        out[j] = -_shrink(z[j], l1) / (damping if damping > 0.0 else 1.0)


@numba.njit(cache=True, nogil=True)
def change(rule, block, size, rates, weights, gradients):  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel
    """Replace the first `size` memories of `block` by what `gradients`, taken at `weights`, add to them."""
    alpha, beta, l1, l2 = rates
    if rule == _FTRL:
        per_root = 1.0 / alpha
        z, n = block[0], block[1]
        for j in range(size):
            g = gradients[j]
            z[j] = g - (np.sqrt(n[j] + g * g) - np.sqrt(n[j])) * per_root * weights[j]
            n[j] = g * g
    elif rule == _ADAGRAD:
        for j in range(size):
            g = gradients[j]
            root = beta + np.sqrt(block[1, j] + g * g)
            rate = alpha / root if root > 0.0 else 0.0
            block[0, j] = _shrink(weights[j] - rate * (g + l2 * weights[j]), rate * l1) - weights[j]
            block[1, j] = g * g
    elif rule == _ADAM:
        for j in range(size):
            g = gradients[j]
            m, v, t = 0.9 * block[1, j] + 0.1 * g, 0.999 * block[2, j] + 0.001 * g * g, block[3, j] + 1.0
            move = alpha * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
            block[0, j] = _shrink(weights[j] - move - alpha * l2 * weights[j], alpha * l1) - weights[j]
            block[1, j], block[2, j], block[3, j] = m - block[1, j], v - block[2, j], 1.0
    else:
        for j in range(size):
            g = gradients[j]
            block[0, j] = _shrink(weights[j] - alpha * (g + l2 * weights[j]), alpha * l1) - weights[j]
