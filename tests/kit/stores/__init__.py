"""Real Valkey and Redis servers, alone, as clusters and behind sentinels, and what lies in them."""
