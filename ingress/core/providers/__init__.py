"""What differs between provider protocols: fields of a request, usage in an answer, shape of an error."""
