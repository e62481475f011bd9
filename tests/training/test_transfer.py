"""Networks to fine-tune: the last layer found and replaced, weights from files, and one line for whatever does not fit."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn

from tests.conftest import one_line
from training import models, transfer
from training.transfer import check_size, create, load_weights

HEADS = {
    **{"resnet18": "fc", "alexnet": "classifier.6", "densenet121": "classifier", "mobilenet_v3_small": "classifier.3"},
    **{"efficientnet_b0": "classifier.1", "convnext_tiny": "classifier.2", "squeezenet1_1": "classifier.1"},
    **{"vit_b_32": "heads.head", "swin_t": "head", "maxvit_t": "classifier.5", "googlenet": "fc"},
}


@pytest.mark.parametrize(("model", "head"), HEADS.items())
def test_the_last_layer_is_found_and_gets_the_classes(model: str, head: str) -> None:
    with torch.device("meta"):  # layers without values: the networks are large
        network = create(model, width=None, init="scratch", num_classes=7)
    assert network.head_name == head
    outputs = network.head.out_channels if isinstance(network.head, nn.Conv2d) else network.head.out_features
    assert outputs == 7


def test_logits_and_features_of_a_torchvision_network() -> None:
    network = create("resnet18", width=None, init="scratch", num_classes=3)
    network.module.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert network.logits(images).shape == (2, 3)
        features = network.features(images)
        assert features.shape == (2, 512)
        torch.testing.assert_close(network.head(features), network.logits(images))
    assert network.module.state_dict()["fc.bias"].eq(0).all()


def test_networks_that_go_on_after_their_last_layer() -> None:
    """SqueezeNet has no features; GoogLeNet, which has several results in training, gives the main one."""
    squeezenet, googlenet = (create(name, width=None, init="scratch", num_classes=3) for name in ("squeezenet1_1", "googlenet"))
    with torch.no_grad(), pytest.raises(ValueError, match="is not the end of this network"):
        squeezenet.features(torch.randn(2, 3, 64, 64))
    assert googlenet.module.train()
    assert googlenet.logits(torch.randn(2, 3, 64, 64)).shape == (2, 3)


# ---- weights from files -----------------------------------------------------------------------------------------------


def ours() -> transfer.Network:
    return create("resnet8", width=4, init="scratch", num_classes=2)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "student.encoder."])
@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "state_dict_ema", "model"])
@pytest.mark.parametrize("zipped", [True, False])  # False: as before torch 1.6
def test_weights_of_other_trainers_are_read_but_for_the_last_layer(prefix: str, key: str, zipped: bool, tmp_path: Path) -> None:
    state = models.create("resnet8", 10, 4).state_dict()
    weights = {prefix + name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    payload = {key: weights, "epochs": [1, 2]} if key else weights
    torch.save(payload, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    read = create("resnet8", width=4, init=str(tmp_path / "weights.pt"), num_classes=3).module.state_dict()
    assert all(value.equal(state[name]) for name, value in read.items() if not name.startswith("head."))
    assert read["head.weight"].shape == (3, 16)


@pytest.mark.parametrize(
    ("model", "width", "size", "message"),
    [
        ("inception_v3", None, 224, r"inception_v3 cannot be trained on images of 224 pixels \(.*\): take --image-size 299$"),
        ("vit_b_16", None, 256, r"vit_b_16 cannot .* 256 pixels \(.*\): take --image-size 224$"),
        ("alexnet", None, 32, r"alexnet cannot .* 32 pixels \(.*\): take --image-size 224$"),
        ("speednet", 8, 8, r"speednet cannot .* 8 pixels"),
    ],
)
def test_sizes_that_a_network_cannot_take_are_one_line(model: str, width: int | None, size: int, message: str) -> None:
    with one_line(message):
        check_size(model, width, size)
    stream = torch.get_rng_state()
    check_size("resnet18", None, 224)
    check_size("resnet8", 4, 14)
    assert torch.get_rng_state().equal(stream)


def resaved(changes: dict[str, Any]) -> Callable[[Path], None]:
    """Return a function that writes the weights with some layers changed; None leaves a layer out."""
    state = models.create("resnet8", 10, 4).state_dict() | changes
    return lambda path: torch.save({name: value for name, value in state.items() if value is not None}, path)


def cut(path: Path) -> None:
    resaved({})(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            resaved({"stages.1.conv1.weight": torch.zeros(1, 2)}),
            r"layer stages\.1\.conv1\.weight is \[1, 2\], the model's is \[8, 4, 3, 3\]",
        ),
        (resaved({"stages.0.norm2.bias": None}), r"no layer stages\.0\.norm2\.bias"),
        (resaved({"stages.9.conv1.weight": torch.zeros(1)}), r"a layer stages\.9\.conv1\.weight"),
        (partial(torch.save, [1, 2]), "weights.pt"),
        *((partial(torch.save, content), "no state dict") for content in ({}, {"a": 1})),
        (cut, "weights.pt"),
        (lambda path: path.write_text("no weights"), "weights.pt"),
        (lambda path: path.write_text("abc"), "no file of weights"),  # "c" is an instruction to pickle
    ],
)
def test_weights_that_do_not_fit_name_file_and_layer(write: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    network = ours()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    with one_line(words) as caught:
        load_weights(network, path)
    assert "weights.pt" in str(caught.value)
    assert all(value.equal(before[name]) for name, value in network.module.state_dict().items()), "nothing was copied"


class Attack:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_not_run(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if zipped:
        torch.save({"model": Attack()}, "weights.pt")
    else:
        Path("weights.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(ValueError, match=r"^weights\.pt[^\n]*$"):
        load_weights(ours(), Path("weights.pt"))
    assert not Path("executed").exists()


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        create("resnet8", width=4, init=str(tmp_path / "nowhere.pt"), num_classes=2)


def test_without_a_network_imagenet_weights_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(ValueError, match=r"^no ImageNet weights of resnet18 \([^\n]*no route[^\n]*: take --init PATH[^\n]*$"):
        create("resnet18", width=None, init="imagenet", num_classes=2)


@pytest.mark.parametrize(
    ("model", "width", "init", "words"),
    [
        ("resnet8", None, "scratch", "resnet8 is this project's own network: give its --width"),
        ("nonet", None, "scratch", "unknown model 'nonet'"),
        ("nonet", 8, "scratch", "unknown model 'nonet'"),
        ("fcn_resnet50", None, "scratch", "unknown model 'fcn_resnet50'"),  # torchvision's, but no classifier
        ("resnet18", 8, "imagenet", "have no ImageNet weights"),
    ],
)
def test_models_that_cannot_be_had(model: str, width: int | None, init: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create(model, width=width, init=init, num_classes=2)
