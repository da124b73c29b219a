"""Layer adapter: the small network between one hidden state of the encoder and MFA (paper, section 3.1)."""

from torch import Tensor, nn
from torch.nn import functional


class LayerAdapter(nn.Module):
    """[B, T, D] -> [B, T, A]: Linear - LayerNorm - ReLU - Linear."""

    def __init__(self, hidden_size: int, adapter_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, adapter_dim)
        self.norm = nn.LayerNorm(adapter_dim)
        self.out = nn.Linear(adapter_dim, adapter_dim)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Adapt one hidden state."""
        return self.out(functional.relu(self.norm(self.down(hidden_BTD))))
