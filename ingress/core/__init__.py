"""The pure part of the ingress: facts and now in, effects out."""
