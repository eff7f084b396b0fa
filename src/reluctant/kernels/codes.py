"""What a compiled kernel does with the pre-activation z of an active neuron, as small integers."""

NONE = 0  # no kernel computes it: the dense way serves
RELU = 1  # z itself (also a thresholded ReLU: only "active" differs)
RELU2 = 2  # z * z
RELU6 = 3  # min(z, 6)
HARDSWISH = 4  # z * min(z + 3, 6) / 6
