"""TransUNet (R50-ViT) in torch, written from its description, with the names of tensors that its authors publish.

The published network fixes the number of groups at 32 and reads squares; here narrow networks have the most groups
that divide both 32 and the channels, and the image may be any rectangle of whole tokens.
"""

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


def group_norm(channels):
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


class StdConv(nn.Conv2d):
    def __init__(self, inputs, outputs, size, stride=1):
        super().__init__(inputs, outputs, size, stride, padding=size // 2, bias=False)

    def forward(self, x):
        w = self.weight.flatten(1)
        w = (w - w.mean(1, keepdim=True)) / torch.sqrt(w.var(1, correction=0, keepdim=True) + 1e-5)
        return functional.conv2d(x, w.view_as(self.weight), None, self.stride, self.padding)


class Unit(nn.Module):
    def __init__(self, inputs, middle, stride):
        super().__init__()
        outputs = 4 * middle
        self.gn1, self.conv1 = group_norm(middle), StdConv(inputs, middle, 1)
        self.gn2, self.conv2 = group_norm(middle), StdConv(middle, middle, 3, stride)
        self.gn3, self.conv3 = group_norm(outputs), StdConv(middle, outputs, 1)
        if stride != 1 or inputs != outputs:
            self.downsample = StdConv(inputs, outputs, 1, stride)
            self.gn_proj = nn.GroupNorm(outputs, outputs)

    def forward(self, x):
        y = torch.relu(self.gn1(self.conv1(x)))
        y = torch.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        return torch.relu(y + (self.gn_proj(self.downsample(x)) if hasattr(self, "downsample") else x))


class ResNetV2(nn.Module):
    def __init__(self, width, units):
        super().__init__()
        self.root = nn.Sequential(OrderedDict(conv=StdConv(3, width, 7, 2), gn=group_norm(width), relu=nn.ReLU()))
        self.body, inputs = nn.Sequential(), width
        for i, number in enumerate(units):
            middle, block = width * 2**i, nn.Sequential()
            for n in range(number):
                block.add_module(f"unit{n + 1}", Unit(inputs, middle, 2 if i and not n else 1))
                inputs = 4 * middle
            self.body.add_module(f"block{i + 1}", block)

    def forward(self, x):
        rows, columns = x.shape[2:]
        x = self.root(x)
        skips = [x]
        x = functional.max_pool2d(x, 3, 2, padding=0)
        for i, block in enumerate(self.body[:-1]):
            x = block(x)
            scale = 2 ** (i + 2)
            skips.append(functional.pad(x, (0, columns // scale - x.shape[3], 0, rows // scale - x.shape[2])))
        return self.body[-1](x), skips[::-1]


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(d // self.heads), -1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention_norm, self.ffn_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.ffn = Attention(width, heads), FeedForward(width, inner)

    def forward(self, x):
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Embeddings(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.hybrid_model = ResNetV2(sizes.resnet_width, sizes.resnet_units)
        self.patch_embeddings = nn.Conv2d(16 * sizes.resnet_width, sizes.hidden_width, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(sizes.position_grid), sizes.hidden_width))

    def forward(self, x):
        x, skips = self.hybrid_model(x)
        return self.patch_embeddings(x).flatten(2).transpose(1, 2) + self.position_embeddings, skips


class Encoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        layers = [Layer(sizes.hidden_width, sizes.num_heads, sizes.mlp_width) for _ in range(sizes.num_layers)]
        self.layer, self.encoder_norm = nn.ModuleList(layers), nn.LayerNorm(sizes.hidden_width, eps=1e-6)

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return self.encoder_norm(x)


class Transformer(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(sizes), Encoder(sizes)


def conv_norm_relu(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UpBlock(nn.Module):
    def __init__(self, inputs, skip, outputs):
        super().__init__()
        self.conv1, self.conv2 = conv_norm_relu(inputs + skip, outputs), conv_norm_relu(outputs, outputs)

    def forward(self, x, skip):
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], 1)))


class Decoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.num_skips, self.grid = sizes.num_skips, sizes.position_grid
        self.conv_more = conv_norm_relu(sizes.hidden_width, sizes.bridge_width)
        below = (sizes.bridge_width, *sizes.decoder_widths[:-1])
        skips = [sizes.resnet_width * factor * (i < sizes.num_skips) for i, factor in enumerate((8, 4, 1, 0))]
        self.blocks = nn.ModuleList(UpBlock(*io) for io in zip(below, skips, sizes.decoder_widths, strict=True))

    def forward(self, x, skips):
        x = self.conv_more(x.transpose(1, 2).unflatten(2, self.grid))
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < self.num_skips else None)
        return x


class TransUNet(nn.Module):
    """The network whose sizes are those of a `seg.config.TransUNetConfig`; its grid is that of the image."""

    def __init__(self, sizes, num_classes):
        super().__init__()
        self.transformer, self.decoder = Transformer(sizes), Decoder(sizes)
        self.segmentation_head = nn.Sequential(nn.Conv2d(sizes.decoder_widths[-1], num_classes, 3, padding=1))

    def forward(self, x):
        tokens, skips = self.transformer.embeddings(x)
        return self.segmentation_head(self.decoder(self.transformer.encoder(tokens), skips))


def perturbed(model, seed):
    """Return the model in inference, its scales, biases, positions and statistics no longer 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.copy_(0.5 + noise)
            elif tensor.is_floating_point() and tensor.ndim < 4 and not name.endswith("weight"):
                tensor.copy_(noise - 0.5)
    return model.eval()
