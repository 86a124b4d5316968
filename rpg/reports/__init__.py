"""Tables, model cards, figures and the HTML report."""
