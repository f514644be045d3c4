r"""The update rules of the online learners: what one coordinate remembers, and how a gradient changes it.

Each rule keeps a short row of float64 numbers per coordinate, its whole state and the weight that follows from it, so
that saving the rows saves the optimiser. With gradient :math:`g`, learning rate scale :math:`\alpha` and
:math:`S_t(x) = \operatorname{sgn}(x) \max(|x| - t, 0)`:

``ftrl`` — (z, n). FTRL-proximal (McMahan et al. 2013), see `ml_core.learners.ftrl`:

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
does not touch never changes.
"""

RULES = {"ftrl": 0, "adagrad": 1, "adam": 2, "sgd": 3}
# How many numbers a coordinate's cell holds: (w, z, n, root of n), (w, n), (w, m, v, t), (w).
STATE_WIDTH = {"ftrl": 4, "adagrad": 2, "adam": 4, "sgd": 1}
# Which of them are saved; the others follow from these.
STATE_SAVED = {"ftrl": slice(1, 3), "adagrad": slice(None), "adam": slice(None), "sgd": slice(None)}

# The rates every rule is called with: (alpha, beta, l1, l2).
Rates = tuple[float, float, float, float]

# What a model says of its margins; the compiled kernels know rules and links by number.
LINKS = {"logistic": 0, "identity": 1, "softmax": 2}
