"""torchvision's route: parameters are made in ``make_params``, and policies hand each op to one method; both are wrapped."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from augment.audit.columns import DRAWN_AS, MIXES, POLICIES, WITHOUT_PARAMETERS, Columns, NoRoute, Recorder, stack_draws
from augment.ops import Op


def _corners_from_coefficients(coefficients: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    # The coefficients map where a pixel goes to where it comes from; the corners' targets are the inverse of that.
    height, width = shape
    start = np.array([[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]], dtype=float)
    ends = start @ np.linalg.inv(np.array([*coefficients, 1.0]).reshape(3, 3)).T
    return ends[:, :2] / ends[:, 2:]


JITTER = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
"""ColorJitter's parameters, with the factor that changes nothing."""

TorchvisionReader = Callable[[dict[str, Any], tuple[int, int]], dict[str, Any]]

TORCHVISION_READERS: dict[str, TorchvisionReader] = {
    "RandomCrop": lambda made, shape: {"top": made["top"], "left": made["left"]},
    "RandomResizedCrop": lambda made, shape: {name: made[name] for name in ("top", "left", "height", "width")},
    "Rotate": lambda made, shape: {"angle": made["angle"]},
    "Affine": lambda made, shape: {
        "angle": made["angle"],
        "dx": made["translate"][0],
        "dy": made["translate"][1],
        "scale": made["scale"],
        "shear": made["shear"][0],
    },
    "Perspective": lambda made, shape: {"corners": _corners_from_coefficients(made["coefficients"], shape)},
    "Brightness": lambda made, shape: {"factor": made["brightness_factor"]},
    "Contrast": lambda made, shape: {"factor": made["contrast_factor"]},
    "Saturation": lambda made, shape: {"factor": made["saturation_factor"]},
    "Hue": lambda made, shape: {"factor": made["hue_factor"]},
    "ColorJitter": lambda made, shape: {
        "order": made["fn_idx"].numpy().astype(float),
        # None: a range that changes nothing is not drawn from
        **{name: neutral if made[f"{name}_factor"] is None else made[f"{name}_factor"] for name, neutral in JITTER.items()},
    },
    "GaussianBlur": lambda made, shape: {"sigma": made["sigma"][0]},
    "MixUp": lambda made, shape: {"lam": made["lam"]},
    "CutMix": lambda made, shape: {"box": np.array(made["box"], dtype=float)},
}
for _name in ("RandomErasing", "Cutout"):
    TORCHVISION_READERS[_name] = lambda made, shape: {
        "top": made["i"],
        "left": made["j"],
        # no value: ten windows did not fit and nothing is erased
        "height": made["h"] if made["v"] is not None else 0,
        "width": made["w"] if made["v"] is not None else 0,
    }
TORCHVISION_READERS |= {name: TORCHVISION_READERS[plain] for name, plain in DRAWN_AS.items()}


@dataclass
class _Call:
    """One forward call of a torchvision transform."""

    shape: tuple[int, int]
    made: dict[str, Any] | None = None
    kernels: list[tuple[str, float, Any]] | None = None
    weights: list[Tensor] | None = None


class TorchvisionRecorder:
    """Wraps ``make_params`` and, of policies, the method that each op goes through, on one instance."""

    def __init__(self, op: Op, module: Any) -> None:
        known = WITHOUT_PARAMETERS | POLICIES | {"AugMix"} | TORCHVISION_READERS.keys()
        if not isinstance(module, v2.Transform) or op.name not in known:
            raise NoRoute(f"no way to read what {type(module).__name__} draws for {op.name}")
        self._op, self._module = op, module
        self._calls: list[_Call] = []
        module.register_forward_pre_hook(self._start)
        self._wrap_parameters()
        if op.name in POLICIES | {"AugMix"}:
            self._wrap_policy()

    def _start(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        height, width = v2.functional.get_size(inputs[0])
        self._calls.append(_Call((height, width)))

    def _wrap_parameters(self) -> None:
        make = self._module.make_params

        def record(flat_inputs: list[Any]) -> dict[str, Any]:
            self._calls[-1].made = made = make(flat_inputs)
            return made

        self._module.make_params = record

    def _wrap_policy(self) -> None:
        apply = self._module._apply_image_or_video_transform

        def record(image: Any, transform_id: str, magnitude: float, *args: Any, **kwargs: Any) -> Any:
            call = self._calls[-1]
            call.kernels = [*(call.kernels or []), (transform_id, float(magnitude), image)]
            result = apply(image, transform_id, magnitude, *args, **kwargs)
            # AugMix's chains are told apart by which object an op is given, so no op may hand on its input itself.
            return result.view_as(result) if result is image and isinstance(image, Tensor) else result

        self._module._apply_image_or_video_transform = record
        if self._op.name == "AugMix":
            self._wrap_weights()

    def _wrap_weights(self) -> None:
        sample = self._module._sample_dirichlet

        def record(params: Tensor) -> Tensor:
            weights: Tensor = sample(params)
            self._calls[-1].weights = [*(self._calls[-1].weights or []), weights.clone()]
            return weights

        self._module._sample_dirichlet = record

    def clear(self) -> None:
        self._calls.clear()

    def columns(self, count: int) -> Columns:
        draws = self._read_calls()
        # one call for the batch, or one an image; a batch call of AugMix draws its weights for each image
        if len(draws) == 1 and count > 1:
            draws = [self._row(draws[0], i) for i in range(count)]
        if len(draws) != count:
            raise NoRoute(f"{self._op.name} was called {len(draws)} times for {count} images")
        columns = stack_draws([self._row(draw, 0) for draw in draws])
        if self._op.name in MIXES:
            columns["partner"] = np.roll(np.arange(count), 1)
        return columns

    def _row(self, draw: dict[str, Any], index: int) -> dict[str, Any]:
        if isinstance(weights := draw.get("weights"), Tensor):
            return draw | {"weights": weights[index].double().numpy()}
        return draw

    def _read_calls(self) -> list[dict[str, Any]]:
        return [self._read(call) for call in self._calls]

    def _read(self, call: _Call) -> dict[str, Any]:
        name = self._op.name
        if name == "AugMix":
            return {"applied": True} | _read_augmix(call, getattr(self._op, "width", 3))
        if name in POLICIES:
            return {"applied": True, "ops": [(op, magnitude) for op, magnitude, _ in call.kernels or []]}
        if call.made is None:
            return {"applied": False}
        reader = TORCHVISION_READERS.get(name)
        return {"applied": True} | (reader(call.made, call.shape) if reader else {})

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        inputs: tuple[Tensor, ...] = (torch.zeros(3, *shape),)
        if self._op.name in MIXES:
            inputs = (torch.zeros(1, 3, *shape), torch.zeros(1, dtype=torch.int64))
        with self._without_pixels():
            self.clear()
            for _ in range(count):
                self._module(*inputs)
            draws = self._read_calls()
            self.clear()
        return stack_draws([self._row(draw, 0) for draw in draws])

    @contextlib.contextmanager
    def _without_pixels(self) -> Iterator[None]:
        """Parameters are drawn as ever, but no image is transformed: thousands of draws a second."""
        module = self._module
        kept = {name: module.__dict__.get(name) for name in ("transform", "_apply_image_or_video_transform")}
        module.transform = lambda inpt, params: inpt
        if kept["_apply_image_or_video_transform"] is not None:
            module._apply_image_or_video_transform = self._only_record
        try:
            yield
        finally:
            for name, value in kept.items():
                module.__dict__.pop(name, None)
                if value is not None:
                    setattr(module, name, value)

    def _only_record(self, image: Any, transform_id: str, magnitude: float, *args: Any, **kwargs: Any) -> Any:
        call = self._calls[-1]
        call.kernels = [*(call.kernels or []), (transform_id, float(magnitude), image)]
        return image.view_as(image)


class TorchvisionNoiseRecorder:
    """torchvision hands no noise out: the random state before each call is kept and the noise drawn once more, on black."""

    def __init__(self, op: Op, module: Any) -> None:
        if not isinstance(module, v2.GaussianNoise):
            raise NoRoute(f"no way to read what {type(module).__name__} draws for {op.name}")
        self._module = module
        self._calls: list[tuple[Tensor, Tensor]] = []
        module.register_forward_pre_hook(lambda module, inputs: self._calls.append((inputs[0], _random_state(inputs[0]))))

    def clear(self) -> None:
        self._calls.clear()

    def columns(self, count: int) -> Columns:
        drawn = [self._again(image, state) for image, state in self._calls]
        noise = torch.cat([part if part.ndim == 4 else part[None] for part in drawn]).double().cpu().numpy()
        if len(noise) != count:
            raise NoRoute(f"GaussianNoise was called for {len(noise)} images instead of {count}")
        return {"applied": np.ones(count, dtype=bool), "noise": noise}

    def _again(self, image: Tensor, state: Tensor) -> Tensor:
        after = _random_state(image)
        _set_random_state(image, state)
        noise: Tensor = v2.functional.gaussian_noise(
            torch.zeros_like(image), mean=self._module.mean, sigma=self._module.sigma, clip=False
        )
        _set_random_state(image, after)
        return noise

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        self.clear()
        self._module(torch.zeros(-(-count // (3 * shape[0] * shape[1])), 3, *shape))
        noise = self.columns(len(self._calls[0][0]))["noise"]
        self.clear()
        return {"applied": np.ones(count, dtype=bool), "noise": noise.reshape(-1)[:count]}


def _random_state(image: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(image.device) if image.is_cuda else torch.get_rng_state()


def _set_random_state(image: Tensor, state: Tensor) -> None:
    if image.is_cuda:
        torch.cuda.set_rng_state(state, image.device)
    else:
        torch.set_rng_state(state)


def torchvision_recorder(op: Op, module: Any) -> Recorder:
    """The route of a torchvision transform."""
    return TorchvisionNoiseRecorder(op, module) if op.name == "GaussianNoise" else TorchvisionRecorder(op, module)


def _read_augmix(call: _Call, width: int) -> dict[str, Any]:
    assert call.kernels is not None
    assert call.weights is not None
    first = call.kernels[0][2]
    chains: list[list[tuple[str, float]]] = []
    for name, magnitude, image in call.kernels:
        if image is first:
            chains.append([])
        chains[-1].append((name, magnitude))
    if len(chains) != width:
        raise NoRoute(f"AugMix ran {len(chains)} chains instead of {width}")
    own, rest = call.weights[0], call.weights[1]
    return {"weights": torch.cat([own[:, :1], rest * own[:, 1:]], dim=1), "chains": chains}
