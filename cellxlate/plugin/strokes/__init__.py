"""Attention taught by painting."""
