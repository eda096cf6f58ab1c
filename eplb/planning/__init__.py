"""Placements planned from recorded statistics, measured, and told: what the commands do."""
