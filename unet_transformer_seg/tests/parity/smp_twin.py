"""segmentation_models_pytorch's `Unet` with a ResNet encoder of any width, written in torch for these tests.

The package itself builds only encoders of the published widths, and needs a torchvision made for the same torch. The
names in the state dict are the package's; `test_smp_parity.py` compares the two where the package can be imported.
"""

import torch
from torch import nn


def conv_norm(inputs, outputs, kernel_size, stride=1):
    return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False), nn.BatchNorm2d(outputs)


class Unit(nn.Module):
    def __init__(self, block, inputs, width, stride):
        super().__init__()
        outputs = width if block == "basic" else 4 * width
        if block == "basic":
            plan = [(inputs, width, 3, stride), (width, width, 3)]
        else:
            plan = [(inputs, width, 1), (width, width, 3, stride), (width, outputs, 1)]
        for number, sizes in enumerate(plan, start=1):
            for kind, module in zip(("conv", "bn"), conv_norm(*sizes), strict=True):
                self.add_module(f"{kind}{number}", module)
        self.num_convs = len(plan)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        for number in range(1, self.num_convs + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            x = torch.relu(x + shortcut if number == self.num_convs else x)
        return x


class Encoder(nn.Module):
    def __init__(self, block, units, width):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, width, 7, 2)
        self.channels = [width]
        for layer, count in enumerate(units, start=1):
            outputs = width * 2 ** (layer - 1) * (1 if block == "basic" else 4)
            stride = 1 if layer == 1 else 2
            modules = [Unit(block, self.channels[-1], width * 2 ** (layer - 1), stride)]
            modules += [Unit(block, outputs, width * 2 ** (layer - 1), 1) for _ in range(count - 1)]
            self.add_module(f"layer{layer}", nn.Sequential(*modules))
            self.channels.append(outputs)

    def forward(self, x):
        maps = [torch.relu(self.bn1(self.conv1(x)))]
        x = nn.functional.max_pool2d(maps[0], 3, 2, 1)
        for layer in range(1, 5):
            x = getattr(self, f"layer{layer}")(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    def __init__(self, inputs, skip, outputs):
        super().__init__()
        self.conv1 = nn.Sequential(*conv_norm(inputs + skip, outputs, 3), nn.ReLU())
        self.conv2 = nn.Sequential(*conv_norm(outputs, outputs, 3), nn.ReLU())

    def forward(self, x, skip):
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], 1)))


class Twin(nn.Module):
    def __init__(self, block, units, encoder_width, decoder_widths, classes):
        super().__init__()
        self.encoder = Encoder(block, units, encoder_width)
        *skips, inputs = self.encoder.channels
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList()
        for outputs, skip in zip(decoder_widths, [*skips[::-1], 0], strict=True):
            self.decoder.blocks.append(Block(inputs, skip, outputs))
            inputs = outputs
        self.segmentation_head = nn.Sequential(nn.Conv2d(inputs, classes, 3, padding=1))

    def forward(self, x):
        *skips, x = self.encoder(x)
        for block, skip in zip(self.decoder.blocks, [*skips[::-1], None], strict=True):
            x = block(x, skip)
        return self.segmentation_head(x)


def draw(model, seed, dtype=torch.float32):
    """Give the model values of a sensible spread that a float of `dtype` can hold; no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        normal = torch.randn(value.shape, generator=generator)
        if value.ndim in (2, 4):
            new = normal * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            new = 0.5 + normal.abs()
        else:
            new = 0.2 * normal + (1.0 if name.endswith("weight") else 0.0)
        value.copy_(new.to(dtype))
    return model.eval()
