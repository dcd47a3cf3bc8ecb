"""Loss functions for JAX: stable, exactly averaged, differentiable in every mode."""

from jaxloss import primitives as primitives
from jaxloss._adaptive_softmax import (
    AdaptiveSoftmax as AdaptiveSoftmax,
    adaptive_softmax as adaptive_softmax,
)
from jaxloss._binary import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    multilabel_soft_margin as multilabel_soft_margin,
    sigmoid_focal as sigmoid_focal,
)
from jaxloss._checked import checked as checked
from jaxloss._class_buffers import ClassBuffers as ClassBuffers
from jaxloss._class_counts import (
    class_priors as class_priors,
    effective_number_weights as effective_number_weights,
    logit_adjustment as logit_adjustment,
)
from jaxloss._classification import (
    cross_entropy as cross_entropy,
    nll as nll,
    poly_cross_entropy as poly_cross_entropy,
    softmax_focal as softmax_focal,
)
from jaxloss._contrastive import (
    info_nce as info_nce,
    nt_xent as nt_xent,
    sigmoid_contrastive as sigmoid_contrastive,
    supervised_contrastive as supervised_contrastive,
)
from jaxloss._ctc import ctc as ctc
from jaxloss._cutoffs import (
    Costs as Costs,
    measure_costs as measure_costs,
    optimal_cutoffs as optimal_cutoffs,
)
from jaxloss._divergence import (
    generalized_kl_divergence as generalized_kl_divergence,
    js_divergence as js_divergence,
    kl_divergence as kl_divergence,
)
from jaxloss._embedding import (
    cosine_distance as cosine_distance,
    cosine_embedding as cosine_embedding,
    cosine_similarity as cosine_similarity,
    triplet_margin as triplet_margin,
)
from jaxloss._likelihood import (
    gaussian_nll as gaussian_nll,
    poisson_nll as poisson_nll,
)
from jaxloss._linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from jaxloss._margin import (
    hinge as hinge,
    hinge_embedding as hinge_embedding,
    margin_ranking as margin_ranking,
    perceptron as perceptron,
    soft_margin as soft_margin,
    squared_hinge as squared_hinge,
)
from jaxloss._microbatches import (
    accumulated_value_and_grad as accumulated_value_and_grad,
    microbatched as microbatched,
)
from jaxloss._multiclass_margin import (
    multi_margin as multi_margin,
    multiclass_hinge as multiclass_hinge,
    multiclass_perceptron as multiclass_perceptron,
    multilabel_margin as multilabel_margin,
    true_and_hardest as true_and_hardest,
)
from jaxloss._overlap import (
    dice as dice,
    tversky as tversky,
)
from jaxloss._regression import (
    absolute_error as absolute_error,
    absolute_percentage_error as absolute_percentage_error,
    epsilon_insensitive as epsilon_insensitive,
    quantile as quantile,
    squared_error as squared_error,
    squared_log_error as squared_log_error,
)
from jaxloss._robust import (
    huber as huber,
    log_cosh as log_cosh,
    smooth_l1 as smooth_l1,
)
from jaxloss._sparsemax import sparsemax as sparsemax
from jaxloss.combinators import (
    Components as Components,
    Weighted as Weighted,
    class_weighted as class_weighted,
    ignoring as ignoring,
    masked as masked,
    mean as mean,
    pooled as pooled,
    scaled as scaled,
    sum as sum,
    weighted as weighted,
    weighted_sum as weighted_sum,
)
