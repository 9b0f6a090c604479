"""Causal self-attention written out one position at a time, in float64, from the formulas."""

import math

import numpy as np


def rms_norm(x, gain, eps):
    return x / math.sqrt(sum(value * value for value in x) / len(x) + eps) * gain


def turned(x, position, theta):
    """`x` after rotary embedding: channel i pairs with channel i + half."""
    half = len(x) // 2
    result = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        a, b = x[i], x[i + half]
        result[i] = a * math.cos(angle) - b * math.sin(angle)
        result[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return result


def attention(x, weights, config, documents=None):
    """What each position of `x` (T, C) gathers, (T, C). `weights`: q, k, v, output matrices (rows
    are outputs), their biases or None, and q_gain, k_gain or None. `documents`: a number for each
    position, which looks at those of its own alone."""
    length, width = x.shape
    head_width = width // config.n_head
    group = config.n_head // config.kv_heads

    def project(name, head, position):
        rows = slice(head * head_width, (head + 1) * head_width)
        y = weights[name][rows] @ x[position]
        bias = weights.get(name + "_bias")
        if bias is not None:
            y = y + bias[rows]
        gain = weights.get(name + "_gain")
        if gain is not None:
            y = rms_norm(y, gain, config.norm_eps) * config.qk_scale
        if name != "v" and config.position == "rope":
            y = turned(y, position, config.rope_theta)
        return y

    gathered = np.zeros((length, width))
    for head in range(config.n_head):
        for t in range(length):
            query = project("q", head, t)
            first = 0 if config.sliding_window is None else max(0, t + 1 - config.sliding_window)
            seen = [s for s in range(first, t + 1) if not documents or documents[s] == documents[t]]
            logits = np.array(
                [query @ project("k", head // group, s) / math.sqrt(head_width) for s in seen]
            )
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            values = [project("v", head // group, s) for s in seen]
            rows = slice(head * head_width, (head + 1) * head_width)
            gathered[t, rows] = sum(share * v for share, v in zip(shares, values, strict=True))
    y = gathered @ weights["output"].T
    return y if weights.get("output_bias") is None else y + weights["output_bias"]


def linear_attention(q, k, v, decay):
    """What one head reads by o_t = sum over s <= t of (decay_(s+1) ... decay_t) (q_t . k_s) v_s,
    for q, k, v (T, D) and decay (T,)."""
    read = np.zeros_like(v)
    for t in range(len(q)):
        for s in range(t + 1):
            read[t] += np.prod(decay[s + 1 : t + 1]) * (q[t] @ k[s]) * v[s]
    return read
