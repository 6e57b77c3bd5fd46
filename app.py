"""RetinaNet Explorer: `streamlit run app.py`."""

from pages._shared.setup import navigation, prepare

prepare()
navigation().run()
