"""What several tests of models need."""

import pytest
import torch


@pytest.fixture
def randomize():
    """A function that sets all weights of a model far from their initial values, so that no branch is silent."""

    def set_weights(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
        return model.eval()

    return set_weights
