"""The stable maths that losses share, made public."""

from jaxloss._products import safe_product as safe_product
from jaxloss._softmax import (
    expected_log_softmax as expected_log_softmax,
    log_softmax as log_softmax,
    log_softmax_at as log_softmax_at,
    logsumexp as logsumexp,
)
