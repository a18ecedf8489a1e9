"""What joins the fold to Kafka, clocks and HTTP."""
