"""Connections towards providers; import the public names from `ingress.adapters.provider_pool`."""
