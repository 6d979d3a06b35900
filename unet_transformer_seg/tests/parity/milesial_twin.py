"""The U-Net of milesial/Pytorch-UNet with any width and depth, written in torch for these tests.

The names in the state dict are the published ones. Releases up to 2.0 have a bias in each convolution.
"""

import torch
from torch import nn
from torch.nn import functional


class DoubleConv(nn.Module):
    def __init__(self, inputs, middle, outputs, bias):
        super().__init__()
        layers = []
        for sizes in ((inputs, middle), (middle, outputs)):
            layers += [nn.Conv2d(*sizes, 3, padding=1, bias=bias), nn.BatchNorm2d(sizes[1]), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, outputs, outputs, bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, inputs, outputs, bilinear, bias):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        self.conv = DoubleConv(inputs, inputs // 2 if bilinear else outputs, outputs, bias)

    def forward(self, x, skip):
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(torch.cat([skip, x], 1))


class Head(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.conv = nn.Conv2d(inputs, classes, 1)

    def forward(self, x):
        return self.conv(x)


class Twin(nn.Module):
    def __init__(self, classes, width=64, depth=4, bilinear=False, bias=False, channels=3):
        super().__init__()
        widths, shrink = [width * 2**i for i in range(depth + 1)], 2 if bilinear else 1
        self.depth, self.inc = depth, DoubleConv(channels, width, width, bias)
        for i in range(1, depth + 1):
            outputs = widths[i] // shrink if i == depth else widths[i]
            self.add_module(f"down{i}", Down(widths[i - 1], outputs, bias))
        for i in range(1, depth + 1):
            outputs = widths[depth - i] // (shrink if i < depth else 1)
            self.add_module(f"up{i}", Up(widths[depth - i + 1], outputs, bilinear, bias))
        self.outc = Head(width, classes)

    def forward(self, x):
        maps = [self.inc(x)]
        for i in range(1, self.depth + 1):
            maps.append(getattr(self, f"down{i}")(maps[-1]))
        x = maps.pop()
        for i in range(1, self.depth + 1):
            x = getattr(self, f"up{i}")(x, maps.pop())
        return self.outc(x)


def draw(model, seed, dtype=torch.float32):
    """Give the model values of a sensible spread that a float of `dtype` can hold; no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(7)
            continue
        normal = torch.randn(value.shape, generator=generator)
        if value.ndim == 4:
            fan_in = value.shape[0] if name.endswith("up.weight") else value[0].numel()
            new = normal * (2 / fan_in) ** 0.5
        elif name.endswith("running_var"):
            new = 0.5 + normal.abs()
        else:
            new = 0.2 * normal + (1.0 if name.endswith("weight") else 0.0)
        value.copy_(new.to(dtype))
    return model.eval()
