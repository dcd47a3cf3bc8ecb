"""The stable maths that losses share, public: each function with its own gradient rule."""

from jaxloss._products import (
    safe_product as safe_product,
    xlog1py as xlog1py,
    xlogy as xlogy,
)
from jaxloss._softmax import (
    log_softmax as log_softmax,
    log_softmax_at as log_softmax_at,
    logsumexp as logsumexp,
)
