"""Layers that do not fit into memory: some stay resident, the others are read ahead of the loop."""
