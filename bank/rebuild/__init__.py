"""Making every projection again from the events alone, beside the tables that are in use, and putting it in their place."""
