"""Loss functions for JAX: stable, exactly averaged, differentiable in every mode."""

from jaxloss import primitives as primitives
from jaxloss._classification import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    cross_entropy as cross_entropy,
    nll as nll,
)
from jaxloss._regression import (
    absolute_error as absolute_error,
    huber as huber,
    log_cosh as log_cosh,
    smooth_l1 as smooth_l1,
    squared_error as squared_error,
)
from jaxloss.combinators import (
    Weighted as Weighted,
    masked as masked,
    mean as mean,
    pooled as pooled,
    sum as sum,
    weighted as weighted,
)
