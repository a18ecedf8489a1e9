"""The `tollway` command: finds a deployment, asks its services, prints what people and scripts can use."""
