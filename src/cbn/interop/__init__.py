"""interop: other systems: states in and out of torch, Keras, Flax, ONNX and scikit-learn, whose libraries are optional.

A module imports its library only where something of it is made; arrays that come from it are read without it.
"""
