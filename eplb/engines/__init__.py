"""Serving engines' files in and out, one module a format, and the plug-in for vLLM."""
