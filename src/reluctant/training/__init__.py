"""A training step of one layer, over its active neurons: exact gradients for less time and memory.

After the first product it is known which neurons are active, and the other five products of a step
(a gated layer: eight) need nothing else. So the first one is dense, or a sketch takes its place,
and what is kept for the backward pass is x and, for each token, its active neurons and their
pre-activations.

    y = h W2 + b2                               over the listed neurons of each token
    dh = dy W2^T,  dz = f'(z) dh                for the listed pairs
    dW2 = h^T dy,  dW1 = dz^T x,  db1 = sum dz  over each neuron's tokens
    dx = dz W1^T,  db2 = sum dy

What is left out are products with an exact zero. Where one of them could be 0 * inf = NaN - a
number of dy, W2 or a gated layer's factors that is not finite - and where so many neurons are
active that it would not pay, all products are dense, by torch.

Nothing here outlives the call but what autograd keeps: weights may change between any two steps,
in any way.
"""

from reluctant.training.call import DTYPES, Call, Weights, plain, unserved
from reluctant.training.function import feed_forward

__all__ = ["DTYPES", "Call", "Weights", "feed_forward", "plain", "unserved"]
