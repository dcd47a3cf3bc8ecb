"""The stable maths that losses share, made public."""

from jaxloss._elementary import (
    absolute as absolute,
    log_cosh as log_cosh,
    positive_part as positive_part,
    safe_power as safe_power,
    safe_product as safe_product,
    softplus as softplus,
    xlogy as xlogy,
)
from jaxloss._linear import linear_statistics as linear_statistics
from jaxloss._softmax import (
    expected_log_softmax as expected_log_softmax,
    log_softmax as log_softmax,
    log_softmax_at as log_softmax_at,
    logsumexp as logsumexp,
)
from jaxloss._vectors import norm as norm
