"""conventions: what other systems mean by momentum, running variance, eps and one value per channel."""

from dataclasses import asdict, dataclass

from . import _core

__all__ = [
    "FLAX",
    "KERAS",
    "LECTURE",
    "NAMES",
    "NOTES",
    "ONNX",
    "PAPER",
    "PLACES",
    "TF_CONTRIB",
    "TF_FUSED",
    "TORCH",
    "Convention",
    "complement",
    "known",
    "named",
    "one_of",
]


PLACES = ("inside", "outside")  # of eps, and the root


def complement(weight):
    """Return 1 - weight, as a decimal number: 0.01 of 0.99."""
    return round(1 - weight, 15)


def one_of(name, value, allowed):
    """Return value, if it is one of the words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    return value


@dataclass(frozen=True)
class Convention:
    """How a system writes batch norm down: the choices on which the formulas of the paper leave freedom.

    Parameters
    ----------
    name : str
        What it is called in texts and files.
    momentum_weighs : "new" or "old"
        Whether momentum is the weight of the batch's value or that of the running one. (`renorm_momentum` always
        weighs the new value.)
    variance : "unbiased", "biased" or "deviation"
        What goes into the running variance: ``m2 / (n - 1)``; ``m2 / n``; or the square of the averaged deviation
        ``sqrt(m2 / n)``. Training always normalizes with ``m2 / n``.
    eps_place : "inside" or "outside"
        ``1 / sqrt(var + eps)`` or ``1 / (sqrt(var) + eps)``. "outside" is for inference only: the gradient of
        training differs.
    eps : float, >= 0
        The default of layers; in the units of x squared, or of x if it stands outside.
    momentum : float in [0, 1], or None
        The default of layers; None is the plain average over all batches.
    one_value : "error" or "zero_var"
        The default of layers, for training with one value per channel.

    Raises
    ------
    TypeError, ValueError
        If a choice is none of these.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> x = np.array([[0.0], [4.0]])
    >>> for convention in (cbn.conventions.TORCH, cbn.conventions.KERAS):
    ...     layer = cbn.BatchNorm(1, momentum=0.9, convention=convention, dtype=np.float64)
    ...     y = layer(x)
    ...     print(convention.name, layer.running_mean.round(6), layer.running_var.round(6))
    torch [1.8] [7.3]
    keras [0.2] [1.3]
    """

    name: str
    momentum_weighs: str = "new"
    variance: str = "unbiased"
    eps_place: str = "inside"
    eps: float = 1e-5
    momentum: float | None = 0.1
    one_value: str = "error"

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a text; got {type(self.name).__name__}")
        one_of("momentum_weighs", self.momentum_weighs, ("new", "old"))
        one_of("variance", self.variance, ("unbiased", "biased", "deviation"))
        one_of("eps_place", self.eps_place, PLACES)
        one_of("one_value", self.one_value, ("error", "zero_var"))
        object.__setattr__(self, "eps", _core.check_eps(self.eps))  # plain floats, which files can hold
        if self.momentum is not None:
            object.__setattr__(self, "momentum", _core.check_momentum(self.momentum))

    def weight_of_new(self, momentum):
        """Return the weight of a batch's value in the running one, for a momentum of this convention.

        Parameters
        ----------
        momentum : float in [0, 1], or None

        Returns
        -------
        float or None
            None, the plain average, stays None.

        Examples
        --------
        >>> import cbn
        >>> cbn.conventions.TORCH.weight_of_new(0.25), cbn.conventions.ONNX.weight_of_new(0.75)
        (0.25, 0.25)
        """
        if momentum is None:
            return None
        value = _core.check_momentum(momentum)
        return value if self.momentum_weighs == "new" else 1 - value

    def to_dict(self):
        """Return ``{field: value}``, of which ``Convention(**fields)`` makes it again."""
        return asdict(self)


TORCH = Convention("torch")
KERAS = Convention("keras", "old", "biased", eps=1e-3, momentum=0.99, one_value="zero_var")
TF_FUSED = Convention("tf_fused", eps=1e-3, momentum=1.0, one_value="zero_var")
TF_CONTRIB = Convention("tf_contrib", "old", "biased", eps=1e-3, momentum=0.999, one_value="zero_var")
ONNX = Convention("onnx", "old", "biased", momentum=0.9, one_value="zero_var")
FLAX = Convention("flax", "old", "biased", momentum=0.99, one_value="zero_var")
PAPER = Convention("paper", momentum=None)
LECTURE = Convention("lecture", "old", "deviation", eps=0.0, momentum=0.9)
NOTES = Convention("notes", "old", "biased", eps_place="outside", momentum=0.9)

_NAMED = {c.name: c for c in (TORCH, KERAS, TF_FUSED, TF_CONTRIB, ONNX, FLAX, PAPER, LECTURE, NOTES)}


NAMES = tuple(_NAMED)


def known(convention):
    """Whether it is one of this module's, which its name is enough to find."""
    return _NAMED.get(convention.name) == convention


def named(convention):
    """Return a `Convention`, given itself or the lower-case name of one of this module's."""
    if isinstance(convention, Convention):
        return convention
    if not isinstance(convention, str):
        raise TypeError(f"convention must be a Convention or a name; got {type(convention).__name__}")
    if convention not in _NAMED:
        raise ValueError(f"convention must be a Convention or one of {', '.join(_NAMED)}; got {convention!r}")
    return _NAMED[convention]
