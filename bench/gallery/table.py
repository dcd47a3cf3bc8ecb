"""The table of curves: along which section each loss is drawn, with which options and targets."""

from __future__ import annotations

import math

import jaxloss
from bench.gallery import sections
from bench.gallery.curve import Curve

ERROR = "prediction - target"
PROBABILITY = "predicted probability"
LABEL_LOGIT = "label's logit, two others 0"
LABEL_SCORE = "label's score, others 0 and 1"
OWN_KEY = "angle to its own key (radians)"
POSITIVE = "angle to a positive (radians)"
ANGLE = "angle between (radians)"
PIXELS = "probability of the object's pixels"
CIRCLE = (-math.pi, math.pi)
RIGHT_ANGLES = [-math.pi / 2, math.pi / 2]
TARGETS = [{"target": 1}, {"target": 0}]
SHARES = [{"target": 0.5}, {"target": 0.8}, {"target": 1}]
SIGNS = [{"sign": 1}, {"sign": -1}]
TEMPERATURES = [{"temperature": 0.5}, {"temperature": 0.2}]

REGRESSION = (
    Curve(jaxloss.squared_error, ERROR, (-2, 2), sections.of_error),
    Curve(jaxloss.absolute_error, ERROR, (-2, 2), sections.of_error, kinks=lambda: [0]),
    Curve(
        jaxloss.quantile,
        ERROR,
        (-2, 2),
        sections.of_error,
        [{"q": 0.9}, {"q": 0.5}, {"q": 0.1}],
        kinks=lambda q: [0],
    ),
    Curve(
        jaxloss.epsilon_insensitive,
        ERROR,
        (-2, 2),
        sections.of_error,
        [{"epsilon": 0.5}, {"epsilon": 1}],
        kinks=lambda epsilon: [-epsilon, epsilon],
    ),
    Curve(
        jaxloss.squared_log_error,
        "prediction",
        (0, 8),
        sections.of_target,
        [{"target": 1}, {"target": 4}],
    ),
    Curve(
        jaxloss.absolute_percentage_error,
        "prediction",
        (0, 4),
        sections.of_target,
        [{"target": 1}, {"target": 2}],
        kinks=lambda target: [target],
    ),
    Curve(
        jaxloss.smooth_l1,
        ERROR,
        (-3, 3),
        sections.of_error,
        [{"beta": 1}, {"beta": 0.25}, {"beta": 2}],
    ),
    Curve(
        jaxloss.huber,
        ERROR,
        (-3, 3),
        sections.of_error,
        [{"delta": 1}, {"delta": 0.25}, {"delta": 2}],
    ),
    Curve(jaxloss.log_cosh, ERROR, (-3, 3), sections.of_error),
    Curve(
        jaxloss.poisson_nll,
        "predicted log-rate",
        (-2, 2),
        sections.of_target,
        [{"target": 2}, {"target": 1}, {"target": 0}],
    ),
    Curve(
        jaxloss.gaussian_nll,
        "predicted variance",
        (0.4, 4),
        sections.of_variance,
        [{"error": 1}, {"error": 0.5}, {"error": 1.5}],
    ),
)

BINARY = (
    Curve(
        jaxloss.binary_cross_entropy,
        PROBABILITY,
        (0.1, 0.9),
        sections.of_target,
        [*TARGETS, {"target": 0.5}],
    ),
    Curve(
        jaxloss.binary_cross_entropy_with_logits,
        "logit",
        (-4, 4),
        sections.of_target,
        [*TARGETS, {"target": 0.5}],
    ),
    Curve(
        jaxloss.sigmoid_focal,
        "logit",
        (-4, 4),
        sections.of_target,
        [{"target": 1, "gamma": gamma} for gamma in (2, 0, 5)],
    ),
    Curve(
        jaxloss.multilabel_soft_margin,
        "one logit, the other 0",
        (-4, 4),
        sections.of_two_labels,
        TARGETS,
    ),
    Curve(jaxloss.hinge, "score", (-3, 3), sections.of_sign, SIGNS, kinks=lambda sign: [sign]),
    Curve(jaxloss.squared_hinge, "score", (-2, 2), sections.of_sign, SIGNS),
    Curve(jaxloss.perceptron, "score", (-3, 3), sections.of_sign, SIGNS, kinks=lambda sign: [0]),
    Curve(jaxloss.soft_margin, "score", (-4, 4), sections.of_sign, SIGNS),
    Curve(
        jaxloss.hinge_embedding,
        "distance",
        (0, 2),
        sections.of_sign,
        SIGNS[::-1],
        kinks=lambda sign: [1] if sign == -1 else [],
    ),
    Curve(
        jaxloss.margin_ranking,
        "first score - second",
        (-3, 3),
        sections.of_two_scores,
        [{"sign": 1, "margin": 1}, {"sign": 1, "margin": 0}, {"sign": -1, "margin": 1}],
        kinks=lambda sign, margin: [sign * margin],
    ),
)

CLASSIFICATION = (
    Curve(jaxloss.nll, "log-probability of the label", (-4, 0), sections.of_label),
    Curve(
        jaxloss.cross_entropy,
        LABEL_LOGIT,
        (-4, 6),
        sections.of_label,
        [{"label_smoothing": 0}, {"label_smoothing": 0.2}],
    ),
    Curve(
        jaxloss.linear_cross_entropy,
        "hidden number",
        (-4, 6),
        sections.of_hidden,
        [{"logit_cap": 20}, {"logit_cap": 2}],
    ),
    Curve(
        jaxloss.adaptive_softmax,
        "hidden number",
        (-4, 4),
        sections.of_cluster,
        [{"label": 0}, {"label": 2}],
    ),
    Curve(
        jaxloss.softmax_focal,
        LABEL_LOGIT,
        (-4, 6),
        sections.of_label,
        [{"gamma": 2}, {"gamma": 0}, {"gamma": 5}],
    ),
    Curve(
        jaxloss.poly_cross_entropy,
        LABEL_LOGIT,
        (-4, 6),
        sections.of_label,
        [{"epsilon": 2}, {"epsilon": 0}, {"epsilon": -1}],
    ),
    Curve(jaxloss.sparsemax, LABEL_LOGIT, (-2, 2), sections.of_label),
    Curve(
        jaxloss.multi_margin,
        LABEL_SCORE,
        (-1, 3),
        sections.of_label_below_one,
        [{"p": 1}, {"p": 2}],
        kinks=lambda p: [1, 2] if p == 1 else [],
    ),
    Curve(
        jaxloss.multiclass_hinge,
        LABEL_SCORE,
        (-1, 3),
        sections.of_label_below_one,
        [{"margin": 1}, {"margin": 0.5}],
        kinks=lambda margin: [1 + margin],
    ),
    Curve(
        jaxloss.multiclass_perceptron,
        LABEL_SCORE,
        (-1, 3),
        sections.of_label_below_one,
        kinks=lambda: [1],
    ),
    Curve(
        jaxloss.multilabel_margin,
        LABEL_SCORE,
        (-1, 3),
        sections.of_target_below_one,
        kinks=lambda: [1, 2],
    ),
    Curve(
        jaxloss.ctc,
        "logit of the label in 4 frames",
        (-4, 4),
        sections.of_frames,
        [{"labels": 1}, {"labels": 2}],
    ),
)

COMPARISON = (
    Curve(jaxloss.kl_divergence, PROBABILITY, (0.1, 0.9), sections.of_two_classes, SHARES),
    Curve(
        jaxloss.generalized_kl_divergence,
        "predicted mass",
        (0.3, 4),
        sections.of_mass,
        [{"target": 1}, {"target": 2}],
    ),
    Curve(jaxloss.js_divergence, PROBABILITY, (0.02, 0.98), sections.of_two_classes, SHARES),
    Curve(jaxloss.cosine_similarity, ANGLE, CIRCLE, sections.of_angle),
    Curve(jaxloss.cosine_distance, ANGLE, CIRCLE, sections.of_angle),
    Curve(
        jaxloss.cosine_embedding,
        ANGLE,
        CIRCLE,
        sections.of_angle_and_sign,
        [{"sign": -1, "margin": 0}, {"sign": 1, "margin": 0}],
        kinks=lambda sign, margin: RIGHT_ANGLES if sign == -1 else [],
    ),
    Curve(
        jaxloss.triplet_margin,
        "distance to the negative",
        (0.01, 4),
        sections.of_negative,
        [{"margin": 1}, {"margin": 0.5}],
        kinks=lambda margin: [1 + margin],
    ),
    Curve(jaxloss.info_nce, OWN_KEY, CIRCLE, sections.of_query, TEMPERATURES),
    Curve(jaxloss.nt_xent, POSITIVE, CIRCLE, sections.of_example, TEMPERATURES),
    Curve(jaxloss.supervised_contrastive, POSITIVE, CIRCLE, sections.of_example, TEMPERATURES),
    Curve(
        jaxloss.sigmoid_contrastive,
        OWN_KEY,
        CIRCLE,
        sections.of_query,
        [{"temperature": 0.5, "bias": -1}, {"temperature": 0.1, "bias": -10}],
    ),
    Curve(
        jaxloss.dice,
        PIXELS,
        (0, 1),
        sections.of_mask,
        [{"smooth": 1}, {"smooth": 0}],
    ),
    Curve(
        jaxloss.tversky,
        PIXELS,
        (0, 1),
        sections.of_mask,
        [{"alpha": 0.3, "beta": 0.7}, {"alpha": 0.7, "beta": 0.3}],
    ),
)

CURVES = {curve.name: curve for curve in (*REGRESSION, *BINARY, *CLASSIFICATION, *COMPARISON)}
