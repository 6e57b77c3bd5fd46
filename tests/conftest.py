"""Settings for every test."""

import torch

# With one thread, convolutions add in one order: equal to torchvision means equal bit for bit.
torch.set_num_threads(1)
