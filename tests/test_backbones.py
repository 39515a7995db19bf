"""Public backbones: sizes as published, names as published, weights in and out."""

import pytest
import torch
from safetensors.torch import save_file

from facealign_lite.nets import parameter_count
from facealign_lite.nets.hrnet import Exchange, HRNet, HRNetConfig
from facealign_lite.nets.resnet import MEAN, ResNet, ResNetConfig, layer, normalize

TINY = ResNetConfig(width=4, in_channels=1)


# ---- ResNet --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("depth, count", [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_resnets_are_as_large_as_published(depth, count):
    with torch.device("meta"):
        assert parameter_count(ResNet(ResNetConfig(depth, classes=1000))) == count


def test_names_are_torchvisions():
    with torch.device("meta"):
        names = ResNet(ResNetConfig(50, classes=1000)).state_dict()
    assert len(names) == 320
    for name, shape in {"conv1.weight": (64, 3, 7, 7), "bn1.running_var": (64,), "fc.weight": (1000, 2048),
                        "layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer1.0.downsample.1.bias": (256,),
                        "layer2.0.conv2.weight": (128, 128, 3, 3), "layer3.5.bn3.weight": (1024,),
                        "layer4.2.conv3.weight": (2048, 512, 1, 1)}.items():
        assert names[name].shape == shape
    assert "layer1.0.downsample.0.weight" not in ResNet(TINY).state_dict()        # basic blocks keep the width there


def test_features_have_the_strides_and_widths_that_the_configuration_says():
    for config in [TINY, ResNetConfig(50, width=4, stages=2), ResNetConfig(width=4, stride=8),
                   ResNetConfig(50, width=4, stages=3, stride=4)]:
        features = ResNet(config).eval()(torch.rand(1, config.in_channels, 64, 96))
        assert [tuple(f.shape[1:]) for f in features] == \
            [(c, 64 // s, 96 // s) for c, s in zip(config.channels, config.strides, strict=True)]


@pytest.mark.parametrize("depth", [18, 50])
def test_dilation_computes_the_same_features_more_densely(depth):
    """Without a stride every other pixel is what the network with strides sees."""
    torch.manual_seed(0)
    coarse, fine = (ResNet(ResNetConfig(depth, stride=stride, width=4, in_channels=1)).double().eval()
                    for stride in (32, 8))
    fine.load_state_dict(coarse.state_dict())
    images = torch.rand(1, 1, 128, 128, dtype=torch.double) - 0.5
    a, b = coarse(images), fine(images)
    torch.testing.assert_close(b[1], a[1])
    torch.testing.assert_close(b[2][..., ::2, ::2], a[2])
    torch.testing.assert_close(b[3][..., ::4, ::4], a[3])


def test_a_block_with_silent_convolutions_is_its_shortcut():
    from facealign_lite.nets.resnet import BasicBlock, Bottleneck
    x = torch.rand(2, 8, 6, 6)
    for kind, width in ((BasicBlock, 8), (Bottleneck, 2)):
        block = layer(kind, 8, width, 1)[0].eval()
        torch.nn.init.zeros_((block.conv3 if kind is Bottleneck else block.conv2).weight)
        torch.testing.assert_close(block(x), x)


def test_weights_come_back_by_name(tmp_path):
    torch.manual_seed(0)
    public = ResNet(ResNetConfig(width=4, classes=10)).eval()
    save_file(public.state_dict(), tmp_path / "a.safetensors")
    images = torch.rand(1, 1, 64, 64)
    truth = public(images.expand(-1, 3, -1, -1))
    for config in [ResNetConfig(width=4), ResNetConfig(width=4, stages=2), TINY]:
        found = ResNet(config).load_weights(tmp_path / "a.safetensors").eval()
        for ours, theirs in zip(found(images.expand(-1, config.in_channels, -1, -1)), truth):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    same = ResNet(public.config).load_weights(tmp_path / "a.safetensors").eval()
    torch.testing.assert_close(same.classify(images.expand(-1, 3, -1, -1)), public.fc(truth[-1].mean((2, 3))))


def test_weights_of_another_network_are_refused(tmp_path):
    path, tensors = tmp_path / "a.safetensors", ResNet(ResNetConfig(width=4)).state_dict()
    for change, name in [(lambda t: t.pop("layer3.0.bn1.bias"), "layer3.0.bn1.bias"),
                         (lambda t: t.update({"head.weight": torch.ones(1)}), "head.weight"),
                         (lambda t: t.update({"bn1.bias": torch.ones(3)}), "bn1.bias"),
                         (lambda t: t.update({"bn1.bias": torch.full((4,), torch.nan)}), "bn1.bias")]:
        other = dict(tensors)
        change(other)
        save_file(other, path)
        with pytest.raises(ValueError, match=name):
            ResNet(ResNetConfig(width=4)).load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="safetensors"):
        ResNet(TINY).load_weights(path)
    with pytest.raises(FileNotFoundError):
        ResNet(TINY).load_weights(tmp_path / "none.safetensors")


def test_a_resnet_learns():
    torch.manual_seed(0)
    net, images = ResNet(TINY), torch.rand(4, 1, 64, 64)
    net(images)[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_mean_colour_becomes_zero():
    mean = torch.tensor(MEAN)[None, :, None, None] - 0.5
    torch.testing.assert_close(normalize(mean), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    assert normalize(torch.zeros(2, 1, 4, 4)).shape == (2, 3, 4, 4)


def test_bad_input_is_refused_at_the_door():
    for bad in [{"depth": 20}, {"stages": 5}, {"stride": 3}, {"width": 0}, {"classes": 10, "stages": 2}]:
        with pytest.raises(ValueError):
            ResNetConfig(**bad)
    with pytest.raises(ValueError, match="images"):
        ResNet(TINY)(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="classes"):
        ResNet(TINY).classify(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match="images"):
        normalize(torch.rand(1, 2, 4, 4))


# ---- HRNet ---------------------------------------------------------------------------------------------------------

SMALL = HRNetConfig(width=2, modules=(1, 1, 1), blocks=1, stem=4, in_channels=1)


@pytest.mark.parametrize("width, millions", [(32, 28.5), (48, 63.6)])
def test_hrnets_are_as_large_as_published(width, millions):
    with torch.device("meta"):
        assert round(parameter_count(HRNet(HRNetConfig(width, maps=17))) / 1e6, 1) == millions


def test_names_are_hrnets():
    with torch.device("meta"):
        names = HRNet(HRNetConfig(maps=17)).state_dict()
    for name, shape in {"conv2.weight": (64, 64, 3, 3), "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                        "transition1.0.0.weight": (32, 256, 3, 3), "transition1.1.0.0.weight": (64, 256, 3, 3),
                        "transition2.2.0.0.weight": (128, 64, 3, 3), "transition3.3.0.1.running_mean": (256,),
                        "stage2.0.branches.1.3.bn2.weight": (64,), "stage2.0.fuse_layers.0.1.0.weight": (32, 64, 1, 1),
                        "stage3.3.fuse_layers.2.0.0.0.weight": (32, 32, 3, 3),
                        "stage3.3.fuse_layers.2.0.1.0.weight": (128, 32, 3, 3),
                        "stage4.2.fuse_layers.0.3.1.bias": (32,), "final_layer.weight": (17, 32, 1, 1)}.items():
        assert names[name].shape == shape
    assert "transition2.0.0.weight" not in names                      # a branch that keeps its width needs no step
    assert not [name for name in names if name.startswith("stage4.2.fuse_layers.1")]       # only the finest is wanted


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_the_finest_branch_keeps_a_quarter_of_the_image(stages):
    torch.manual_seed(0)
    net = HRNet(HRNetConfig(width=2, stages=stages, modules=(1, 1, 1), blocks=1, stem=4, in_channels=1))
    features = net(torch.rand(2, 1, 64, 96))
    assert features.shape == (2, 2, 16, 24)
    features.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_every_branch_reaches_every_other():
    torch.manual_seed(0)
    exchange, widths = Exchange([2, 4, 8], 1).eval(), [2, 4, 8]
    x = [torch.rand(1, width, 16 >> i, 16 >> i) for i, width in enumerate(widths)]
    for k in range(3):
        y = [torch.rand_like(z) if i == k else z for i, z in enumerate(x)]
        assert [a.shape for a in exchange(y)] == [a.shape for a in x]
        assert all((a != b).any() for a, b in zip(exchange(x), exchange(y)))


def test_weights_of_the_whole_serve_the_first_stages(tmp_path):
    whole = HRNet(HRNetConfig(width=2, modules=(1, 1, 1), blocks=1, stem=4, maps=3)).eval()
    save_file(whole.state_dict(), tmp_path / "a.safetensors")
    images = torch.rand(1, 1, 64, 64)
    same = HRNet(HRNetConfig(width=2, modules=(1, 1, 1), blocks=1, stem=4, maps=3, in_channels=1))
    found = same.load_weights(tmp_path / "a.safetensors").eval()(images)
    torch.testing.assert_close(found, whole(images.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)
    part = HRNet(HRNetConfig(width=2, stages=3, modules=(1, 1, 1), blocks=1, stem=4)).load_weights(
        tmp_path / "a.safetensors")
    torch.testing.assert_close(part.stage3[0].branches[2][0].conv1.weight, whole.stage3[0].branches[2][0].conv1.weight)
    with pytest.raises(ValueError, match="missing"):
        HRNet(HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, stem=4)).load_weights(tmp_path / "a.safetensors")


def test_hrnet_refuses_what_it_cannot_halve():
    for bad in [{"stages": 5}, {"modules": (1, 1)}, {"width": 0}, {"maps": -1}]:
        with pytest.raises(ValueError):
            HRNetConfig(**bad)
    for shape in [(1, 3, 64, 64), (1, 1, 48, 64), (1, 64, 64)]:
        with pytest.raises(ValueError, match="images"):
            HRNet(SMALL)(torch.rand(shape))
